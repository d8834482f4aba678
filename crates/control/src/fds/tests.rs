use super::*;
use std::os::fd::IntoRawFd as _;

struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn listener(&self) -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn control(&self) -> OwnedFd {
        Listener::bind(&self.dir.path().join("ctl.sock")).unwrap().into()
    }

    fn file(&self) -> File {
        testing::file(self.dir.path(), testing::TOKEN)
    }

    fn lock(&self) -> OwnedFd {
        testing::locked_file(self.dir.path(), testing::TOKEN).into()
    }
}

/// As the process finds them behind its exec.
fn handed_over(lent: Lent) -> String {
    let variable = lent.variable();
    lent.pass_on().unwrap();
    for (_, fd) in lent.0 {
        let _ = fd.into_raw_fd();
    }
    variable
}

fn claim(lent: impl IntoIterator<Item = (Name, OwnedFd)>) -> Result<Inherited, FdsError> {
    Lent::claim(&handed_over(Lent(lent.into_iter().collect())))?.try_into()
}

fn is_open_at_exec(fd: impl AsFd) -> bool {
    !fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC)
}

#[test]
fn what_is_lent_is_taken_by_its_name_and_closes_at_the_next_exec() {
    let stage = Stage::new();
    let mut lent = Lent::default();
    lent.add(Name::Lock, stage.lock());
    lent.add(Name::Listener, stage.listener());
    lent.add(Name::Control, stage.control());
    let number = lent.number(Name::Listener).unwrap();
    let Inherited { listener, control, lock, config, secret, socket } =
        Lent::claim(&handed_over(lent)).unwrap().try_into().unwrap();
    assert!(config.is_none() && secret.is_none() && socket.is_none(), "an older supervisor lends none");
    let listener = listener.unwrap();
    assert_eq!(listener.as_raw_fd(), number);
    assert_eq!(lock.token(), testing::TOKEN);
    assert!(!is_open_at_exec(&listener) && !is_open_at_exec(&control) && !is_open_at_exec(&lock.file));
}

#[test]
fn a_file_in_memory_is_read_from_its_start_however_often_and_never_changes() {
    let stage = Stage::new();
    let config = in_memory("config", b"text").unwrap();
    let shared = config.try_clone().unwrap();
    let lent = [(Name::Control, stage.control()), (Name::Lock, stage.lock()), (Name::Config, config.into())];
    let taken = claim(lent).unwrap().config.unwrap();
    for _ in 0..2 {
        assert_eq!(std::fs::read_to_string(path_of(&taken)).unwrap(), "text");
    }
    assert!((&shared).write_all(b"more").is_err() && shared.set_len(1).is_err());
}

#[test]
fn an_encoder_has_no_listener_and_everybody_a_control_socket_and_a_lock() {
    let stage = Stage::new();
    let taken = claim([(Name::Control, stage.control()), (Name::Lock, stage.lock())]).unwrap();
    assert!(taken.listener.is_none());
    let taken = claim([(Name::Listener, stage.listener()), (Name::Lock, stage.lock())]);
    assert!(matches!(taken, Err(FdsError::Missing(Name::Control))), "{taken:?}");
    let taken = claim([(Name::Control, stage.control())]);
    assert!(matches!(taken, Err(FdsError::Missing(Name::Lock))), "{taken:?}");
}

#[test]
fn a_descriptor_of_the_wrong_kind_is_told_by_its_name() {
    let stage = Stage::new();
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let connected = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        OwnedFd::from(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap())
    };
    let stream = || {
        let path = stage.dir.path().join("stream.sock");
        OwnedFd::from(crate::unix::listen_stream(&path, 0o600).unwrap())
    };
    let locked = |text| OwnedFd::from(testing::locked_file(stage.dir.path(), text));
    let cases = [
        (Name::Listener, null(), "is no listening TCP socket"),
        (Name::Listener, connected(), "is no listening TCP socket"),
        (Name::Listener, stream(), "is no listening TCP socket"),
        (Name::Listener, stage.control(), "is no listening TCP socket"),
        (Name::Control, null(), "is no listening SOCK_SEQPACKET socket"),
        (Name::Control, stage.listener(), "is no listening SOCK_SEQPACKET socket"),
        (Name::Control, stream(), "is no listening SOCK_SEQPACKET socket"),
        (Name::Lock, null(), "is no file"),
        (Name::Lock, stage.listener(), "is no file"),
        (Name::Lock, stage.file().into(), "is not locked"),
        (Name::Lock, locked(""), "holds no token"),
        (Name::Lock, locked("0123456789abcdef0123456789abcdef0"), "holds no token"),
        (Name::Lock, locked("0123456789abcdef0123456789abcdeg"), "holds no token"),
    ];
    for (name, fd, why) in cases {
        let number = fd.as_raw_fd();
        let error = claim([(name, fd)]).unwrap_err().to_string();
        assert_eq!(error, format!("{name}, descriptor {number}, {why}"));
    }
}

#[test]
fn what_this_process_has_opened_itself_is_never_taken() {
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Lent::claim(&format!("listener:{}", own.as_raw_fd())).unwrap_err().to_string();
    assert!(error.ends_with("was not inherited"), "{error}");
    own.local_addr().unwrap();
    let error = Lent::claim("listener:1048575").unwrap_err().to_string();
    assert!(error.ends_with("is not open"), "{error}");
}

#[test]
fn duplicates_are_others_and_what_takes_the_place_of_one_has_its_number() {
    let stage = Stage::new();
    let mut lent = Lent::default();
    lent.add(Name::Control, stage.control());
    lent.add(Name::Lock, stage.lock());
    let Inherited { control, lock, .. } = lent.try_clone().unwrap().try_into().unwrap();
    assert!(!lent.has(control.as_fd().as_raw_fd()) && !lent.has(lock.as_fd().as_raw_fd()));
    drop((control, lock));
    let number = lent.number(Name::Lock).unwrap();
    assert!(lent.has(number));
    let other = "f".repeat(TOKEN);
    let new = testing::locked_file(stage.dir.path(), &other);
    lent.replace(Name::Lock, new.as_fd()).unwrap();
    lent.replace(Name::Listener, new.as_fd()).unwrap();
    assert_eq!((lent.number(Name::Lock), lent.number(Name::Listener)), (Some(number), None));
    let taken = Inherited::try_from(lent.try_clone().unwrap()).unwrap();
    assert_eq!(taken.lock.token(), other);
    assert!(!is_open_at_exec(&lent.0[1].1));
}

#[test]
fn nothing_is_taken_beside_a_second_thread() {
    // The test harness has one.
    assert!(matches!(Lent::take_value(Some("control:9".into())), Err(FdsError::TooLate)));
    assert!(matches!(Lent::take_value(None), Err(FdsError::NoVariable)));
}

#[test]
fn a_list_that_is_not_understood_is_refused_before_anything_is_taken() {
    for value in [
        "",
        "control",
        "control:",
        "control:x",
        "control:-1",
        "control:2",
        "memfd:9",
        "control:9,",
        "control:9,control:10",
        "control:9,lock:9",
        "control:99999999999",
    ] {
        let taken = Lent::claim(value);
        assert!(matches!(&taken, Err(FdsError::Variable(said)) if said == value), "{value:?}: {taken:?}");
    }
}
