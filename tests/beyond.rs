//! `forward:`: streams go to servers outside the cluster, and what becomes of these is nobody else's trouble.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bench::exact::{Plan, Swarm};
use cluster::stats::{ForwardState, ForwardStats};
use cluster::status::Health;
use nix::sys::signal::Signal::SIGKILL;

use crate::support::cluster::{TestCluster, signal};
use crate::support::flv::assert_same;
use crate::support::net::Net;
use crate::support::swarm::{assert_whole, run, run_until, settle};
use crate::support::{CARD_MS, SOON, STREAM, card, clients, looped_card, rml, wait_for};

const KEY: &str = "k3y-0f-7he-7arge7";

fn target(net: &Net) -> SocketAddr {
    SocketAddr::from((net.host(8), 1935))
}

/// The guide's cluster with these targets of `forward`, a line each; not started.
fn with_targets(lines: impl FnOnce(&Net, &Path) -> String) -> TestCluster {
    let cluster = TestCluster::guide();
    write(&cluster, &lines(&cluster.net, cluster.dir.path()));
    cluster
}

fn write(cluster: &TestCluster, lines: &str) {
    cluster.write(&format!("{}forward:\n{lines}", cluster.net.guide()));
}

/// How each stream's forwards to the target `name` stand.
fn forwards(cluster: &TestCluster, name: &str) -> Result<Vec<(String, ForwardStats)>, String> {
    let rows = cluster.try_status()?.streams;
    let all = rows.iter().flat_map(|row| row.beyond().map(|(name, it)| (row.stream.clone(), name, it)));
    Ok(all.filter(|(_, of, _)| *of == name).map(|(stream, _, it)| (stream, it.clone())).collect())
}

#[track_caller]
fn await_forward(
    cluster: &TestCluster,
    name: &str,
    is_wanted: impl Fn(&ForwardStats) -> bool,
) -> ForwardStats {
    wait_for(&format!("the forward to {name}"), SOON, || {
        let found = forwards(cluster, name)?;
        match found.iter().find(|(stream, it)| stream == STREAM && is_wanted(it)) {
            Some((_, it)) => Ok(it.clone()),
            None => Err(format!("{found:?}")),
        }
    })
}

fn is_live(forward: &ForwardStats) -> bool {
    forward.state == ForwardState::Live
}

/// Files below `dir` that have `word` in them.
fn files_with(dir: &Path, word: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_with(&path, word, found),
            kind if kind.is_file() => {
                let bytes = fs::read(&path).unwrap_or_default();
                if bytes.windows(word.len()).any(|piece| piece == word.as_bytes()) {
                    found.push(path.display().to_string());
                }
            }
            _ => {}
        }
    }
}

#[test]
fn streams_that_fit_reach_a_server_outside_which_outlives_the_worker_and_its_key_is_seen_nowhere() {
    let cluster = with_targets(|net, dir| {
        let (nginx, key) = (target(net), dir.join("target.key"));
        format!(
            "  - {{ to: \"rtmp://{nginx}/in/{{stream}}\", name: plain, streams: [\"live/*\"], except: [\"*/test*\"] }}\n  \
             - {{ to: \"rtmp://{nginx}/keyed/{{key}}\", name: keyed, streams: [\"{STREAM}\"], key: {{ file: {} }} }}\n",
            key.display()
        )
    });
    let (nginx, key) = (target(&cluster.net), cluster.dir.path().join("target.key"));
    let _nginx = clients::nginx(
        cluster.dir.path(),
        nginx,
        "application in { live on; } application keyed { live on; }",
    );
    cluster.up();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    let _other = rml::publish(cluster.net.origin(), "live/test1", card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    cluster.await_live("live/test1");
    await_forward(&cluster, "plain", is_live);
    assert_eq!(forwards(&cluster, "plain").unwrap().len(), 1, "the other is excepted");

    // The key is not there yet: the target is told of, and the cluster is ready all the same.
    let lacks = await_forward(&cluster, "keyed", |it| it.last_error.is_some());
    assert!(lacks.last_error.as_ref().unwrap().contains(key.to_str().unwrap()), "{lacks:?}");
    let told = cluster.run(&["status"]).expect_code(0);
    told.expect_words(&["forward to keyed (rtmp://", "/keyed/{key})", "cannot be read", "1 warning", "4/4"]);
    fs::write(&key, format!("{KEY}\n")).unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let live = await_forward(&cluster, "keyed", |it| is_live(it) && it.bytes > 0);
    assert_eq!(live.url, Some(format!("rtmp://{}/keyed/{{key}}", nginx.ip())));

    let plain = rml::play(nginx, "in/livestream").unwrap();
    let keyed = rml::play(nginx, &format!("keyed/{KEY}")).unwrap();
    assert_same("in", &plain.record_after(0, 3.0), &looped_card(), 3.0);
    assert_same("keyed", &keyed.record_after(0, 3.0), &looped_card(), 3.0);

    // Its next worker goes on with the connection: nginx sees one publication.
    let before = await_forward(&cluster, "keyed", is_live).reconnects;
    let mark = keyed.mark();
    signal(cluster.pid(cluster.net.origin()), SIGKILL);
    wait_for("the next worker", SOON, || {
        let resumed = cluster.unit(cluster.net.origin()).resumed;
        if resumed == 1 { Ok(()) } else { Err(resumed.to_string()) }
    });
    assert_same("keyed over a death", &keyed.record_after(mark, 5.0), &looped_card(), 5.0);
    assert_eq!((keyed.ended(), plain.ended()), (None, None));
    assert_eq!(await_forward(&cluster, "keyed", is_live).reconnects, before);

    let mut found = Vec::new();
    files_with(&cluster.state, KEY, &mut found);
    assert!(found.is_empty(), "{found:?}");
    for (_, args) in cluster.processes() {
        assert!(!args.contains(KEY), "{args}");
    }
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["events", "--json"],
        &["logs"],
        &["history", "--text", "1"],
    ] {
        assert!(!cluster.run(args).text().contains(KEY), "{args:?}");
    }
}

#[test]
fn targets_come_go_and_change_while_the_origin_runs_and_nobody_is_disconnected() {
    let to = |nginx: SocketAddr, name: &str, app: &str| {
        format!("  - {{ to: \"rtmp://{nginx}/{app}/{{stream}}\", name: {name} }}\n")
    };
    let cluster = with_targets(|net, _| to(target(net), "stays", "a") + &to(target(net), "moves", "b"));
    let nginx = target(&cluster.net);
    let applications = ["a", "b", "c"].map(|name| format!("application {name} {{ live on; }}")).concat();
    let _nginx = clients::nginx(cluster.dir.path(), nginx, &applications);
    cluster.up();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    for name in ["stays", "moves"] {
        await_forward(&cluster, name, is_live);
    }
    let stays = rml::play(nginx, "a/livestream").unwrap();
    let edge = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    stays.record_after(0, 1.0);
    let pids = cluster.pids();

    write(&cluster, &(to(nginx, "stays", "a") + &to(nginx, "moves", "c") + &to(nginx, "new", "b")));
    cluster.run(&["plan"]).expect_code(0).expect_words(&[
        "forward moves: rtmp://",
        "forward new: none → rtmp://",
        "1 reconfigured",
    ]);
    cluster.up();
    for name in ["stays", "moves", "new"] {
        await_forward(&cluster, name, is_live);
    }
    let moved = rml::play(nginx, "c/livestream").unwrap();
    assert_same("moved", &moved.record_after(0, 2.0), &looped_card(), 2.0);

    write(&cluster, &to(nginx, "stays", "a"));
    cluster.up();
    wait_for("those that are removed to be gone", SOON, || {
        let left = forwards(&cluster, "moves")?.len() + forwards(&cluster, "new")?.len();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
    let mark = stays.mark();
    assert_same("the one that stays", &stays.record_after(mark, 2.0), &looped_card(), 2.0);
    assert_eq!((stays.ended(), edge.ended(), encoder.ended()), (None, None, None));
    assert_eq!(await_forward(&cluster, "stays", is_live).reconnects, 0);
    assert_eq!(cluster.pids(), pids);
}

/// A port that takes no connection any more: its queue is full, and who comes waits for ever.
fn black_hole(at: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket};
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let SocketAddr::V4(v4) = at else { unreachable!() };
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(v4)).unwrap();
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        match TcpStream::connect_timeout(&at, Duration::from_millis(300)) {
            Ok(stream) => waiting.push(stream),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
                return (TcpListener::from(fd), waiting);
            }
        }
    }
}

#[test]
fn of_twenty_targets_one_that_is_black_holed_and_one_that_never_reads_slow_nobody() {
    let cluster = with_targets(|net, _| {
        let nginx = target(net);
        let well =
            (0..18).map(|n| format!("  - {{ to: \"rtmp://{nginx}/in/{{stream}}-{n}\", name: t{n} }}\n"));
        let ill = [("hole", 9), ("silent", 10)].map(|(name, host)| {
            format!("  - {{ to: \"rtmp://{}/in/{{stream}}\", name: {name} }}\n", net.host(host))
        });
        well.chain(ill).collect()
    });
    let _hole = black_hole((cluster.net.host(9), 1935).into());
    // Its kernel accepts, and nobody reads.
    let _silent = TcpListener::bind((cluster.net.host(10), 1935)).unwrap();
    let _nginx = clients::nginx(cluster.dir.path(), target(&cluster.net), "application in { live on; }");
    cluster.up();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let mut swarm = Swarm::new(Plan { origin, edge, players: 40, seed: 10 }).unwrap();
    swarm.ramp(20).unwrap();
    settle(&mut swarm);
    run_until(&mut swarm, "eighteen are live and two are told of", |_| {
        let Ok(status) = cluster.try_status() else { return false };
        let all: Vec<_> = status.streams.iter().flat_map(|row| row.beyond()).collect();
        let ill = |name: &str| name == "hole" || name == "silent";
        !all.is_empty()
            && all.iter().all(|(name, it)| ill(name) || is_live(it))
            && all.iter().all(|(name, it)| !ill(name) || it.last_error.is_some())
            && all.iter().any(|(name, _)| *name == "hole")
    });
    run(&mut swarm, 3_000);
    assert_whole(&swarm);
    let status = cluster.status();
    for row in &status.streams {
        assert!(row.to_edges().all(is_live), "{row:?}");
    }
    let of_origin = status.units.iter().find(|unit| unit.host == origin.ip().to_string()).unwrap();
    assert_eq!(of_origin.health, Health::Warning, "{of_origin:?}");
    assert!(of_origin.note.contains(" to hole: no TCP connection within 5 s"), "{}", of_origin.note);
    let edges = status.units.iter().filter(|unit| unit.id != of_origin.id);
    for edge in edges {
        assert!(edge.health != Health::Critical && !edge.note.contains("hole"), "{edge:?}");
    }
    cluster.run(&["status"]).expect_code(0);
}
