//! The [`Kernel`] that really does it: processes, listeners, files, clients.

mod kernel;
mod secret;
mod upkeep;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cluster::events::{self, By, Events, Kind};
use cluster::{Cluster, Port, ProcessSpec, Role, UnitId};
use control::api::Apply;
use control::fds::{self, Lent, Name};
use control::{Answer as Asked, AskError, Code, Error, Request, packet};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::api::Reply;
use crate::exec::adopt::{self, Found};
use crate::exec::listeners;
use crate::exec::monitor::{Message, Watched};
use crate::exec::names::Names;
use crate::exec::process::{Given, Process, Spawner};
use crate::exec::record::{AliveLock, Record, SCHEMA, UnitFiles};
use crate::host::dirs::ClusterDirs;
use crate::host::files::write_atomic;
use crate::host::journal::Journal;
use crate::host::systemd::Manager;
use crate::host::{logs, preflight, procfs};
use crate::machine::state::Event;
use crate::reconcile::config::Parse;
use crate::reconcile::events::{WOKEN, WORKER_WOKEN, of_unit};
use crate::reconcile::kernel::{Answer, Client, Command, Input, Instance, Kernel, Look, Ticket};

/// Descriptors that the encoder uses at most.
const ENCODER_FDS: u64 = 64;

/// How long a process may take to take a new config.
const CONFIGURE_LIMIT: Duration = Duration::from_secs(5);

/// The processes of a cluster, and the clients that are owed an answer.
pub(crate) struct Processes {
    dirs: ClusterDirs,
    parse: Parse,
    spawner: Spawner,
    remembered: Remembered,
    held: BTreeMap<UnitId, Held>,
    clients: BTreeMap<Client, Reply>,
    last_client: Client,
    messages: mpsc::Sender<Message>,
    names: Names,
    /// Requests and looks that are under way.
    helpers: JoinSet<()>,
    /// Why the supervisor's own log cannot be opened.
    own_log_fails: Option<String>,
    /// What could not be put back, as it was told.
    missing: Option<String>,
    journal: Journal,
    /// The program of the upgrade that was begun last, whatever becomes of its file.
    upgrade: Option<(PathBuf, OwnedFd)>,
    /// Kept for a spawn, whatever else this process has open.
    reserve: Vec<OwnedFd>,
    is_closed: bool,
}

/// What a supervisor knows itself, whatever becomes of the files.
pub(crate) struct Remembered {
    /// Of the kernel.
    pub(crate) boot_id: String,
    /// Between origin and edges. What the file says since is the next supervisor's.
    pub(crate) secret: String,
    /// The cluster file in force.
    pub(crate) in_force: Apply,
    /// The supervisor's own log, if its output goes there.
    pub(crate) own_log: Option<PathBuf>,
    /// What keeps listeners beside this process.
    pub(crate) manager: Option<Manager>,
}

/// What belongs to one unit.
struct Held {
    files: UnitFiles,
    /// Kept while processes come and go. None of an encoder, of one that was given up, and of an adopted process that
    /// could not lend it.
    listener: Option<OwnedFd>,
    /// Found, and not taken over yet.
    found: Option<(Process, Option<OwnedFd>, Box<Record>)>,
    live: Option<Live>,
    /// Why its log cannot be opened.
    log_fails: Option<String>,
    /// Its config as it was written last.
    config: Option<String>,
    /// What it ran before an upgrade.
    before: Option<OwnedFd>,
    /// What its next start runs in place of what every start does.
    next: Option<OwnedFd>,
    /// How long its log was then, bytes.
    log_before: u64,
}

impl Held {
    fn reach(&self) -> Reach {
        let pid = self.live.as_ref().map(|live| live.process.identity().pid);
        Reach { control: self.files.control(), pid }
    }
}

/// How a process is reached.
struct Reach {
    control: PathBuf,
    pid: Option<u32>,
}

impl Reach {
    async fn ask(
        self,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Asked, AskError> {
        self.ask_with(request, fd.as_slice(), limit).await
    }

    async fn ask_with(
        self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Asked, AskError> {
        adopt::open(&self.control, self.pid)?.0.ask_with(request, fds, limit).await
    }
}

/// A process, and the tasks that watch it; dropping it ends the tasks, not the process.
struct Live {
    process: Arc<Process>,
    instance: Instance,
    record: Box<Record>,
    /// Asks it for a report now.
    refresh: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Processes {
    /// With the listeners that were bound for units without a process. What happens goes to `messages`.
    pub(crate) fn new(
        dirs: ClusterDirs,
        parse: Parse,
        spawner: Spawner,
        remembered: Remembered,
        listeners: BTreeMap<UnitId, OwnedFd>,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        let mut new = Self {
            journal: Journal::open(dirs.events()),
            dirs,
            parse,
            spawner,
            remembered,
            held: BTreeMap::new(),
            clients: BTreeMap::new(),
            last_client: 0,
            messages,
            names: Names::default(),
            helpers: JoinSet::new(),
            own_log_fails: None,
            missing: None,
            upgrade: None,
            reserve: Vec::new(),
            is_closed: false,
        };
        new.fill_reserve();
        for (unit, listener) in listeners {
            new.hold(&unit, Some(listener));
        }
        new
    }

    /// Keeps who is to be answered.
    pub(crate) fn enrol(&mut self, reply: Reply) -> Client {
        self.last_client += 1;
        self.clients.insert(self.last_client, reply);
        self.last_client
    }

    /// Gives who asked what happened behind event number `after`.
    pub(crate) fn tell_events(&self, after: u64, reply: Reply) {
        let (events, newest) = self.journal.after(after);
        let (schema, cluster) = (events::SCHEMA.to_owned(), self.dirs.name().to_owned());
        reply.tell(Events { schema, cluster, newest, events });
    }

    /// Reads a file of which somebody asks what it would do, and has that asked then.
    pub(crate) fn read_for_plan(&mut self, file: &Apply, by: Option<By>, reply: Reply) {
        let (client, parsed) = (self.enrol(reply), self.read(file));
        let messages = self.messages.clone();
        self.helpers.spawn(async move {
            let command = Command::Plan(parsed.await.map(Box::new));
            let _ = messages.send(Message::Input(Input::Asked { client, by, command })).await;
        });
    }

    /// What a file says, and that its hosts are this machine. Looks names up.
    fn read(&self, file: &Apply) -> impl Future<Output = Result<Cluster, Error>> + Send + 'static + use<> {
        let (parse, Apply { path, text, hosts, .. }) = (Arc::clone(&self.parse), file.clone());
        let parsed = tokio::task::spawn_blocking(move || {
            let new = parse(&path, &text).map_err(|why| Error::new(Code::Invalid, why))?.only(&hosts);
            match preflight::hosts(&new).as_slice() {
                [] => Ok(new),
                elsewhere => Err(Error::new(Code::Refused, untouched(elsewhere))),
            }
        });
        async {
            parsed.await.unwrap_or_else(|error| {
                Err(Error::new(Code::Failed, format!("the file could not be read: {error}")))
            })
        }
    }

    /// Closes the port of a unit: whoever is no process of it cannot connect there any more.
    fn close_listener(&mut self, unit: &UnitId) {
        if self.held.contains_key(unit) {
            self.hold(unit, None);
        }
    }

    /// Whether the supervisor before this one ended without a word.
    pub(crate) fn follows_a_killed_one(&self) -> bool {
        self.journal.was_left_open()
    }

    /// What a message says; a process that was found is kept for [`Kernel::adopt`].
    pub(crate) fn take_in(&mut self, message: Message) -> Input {
        match message {
            Message::Input(input) => input,
            Message::Found(unit, found) => {
                let look = self.found(&unit, found);
                Input::Looked { unit, look }
            }
        }
    }

    /// Keeps what was found of a unit.
    pub(crate) fn found(&mut self, unit: &UnitId, found: Found) -> Look {
        self.held(unit).found = None;
        match found {
            Found::Nothing => Look::Nothing,
            Found::Ended { pid } => {
                tracing::warn!(%unit, pid, "its keeper has died: the worker is ended");
                let text = "its keeper had died: the worker that was left is ended";
                self.record(of_unit(Kind::Died, unit, Some(pid), text));
                Look::Nothing
            }
            Found::Unknown { why } => Look::Unknown { why },
            Found::Process { process, serving, listener, silent, woken, record } => {
                let identity = process.identity();
                for pid in woken {
                    let is_keeper = pid == identity.pid && *unit != UnitId::encoder();
                    let text = if is_keeper { WOKEN } else { WORKER_WOKEN };
                    self.record(of_unit(Kind::Woken, unit, Some(pid), text));
                }
                let age = procfs::age(identity.start_ticks).unwrap_or_default();
                self.held(unit).found = Some((process, listener, record));
                Look::Process { pid: identity.pid, serving, silent, age }
            }
        }
    }

    /// The program of an upgrade as it was when that began.
    fn of_upgrade(&self, path: &Path) -> Option<&OwnedFd> {
        self.upgrade.as_ref().filter(|(begun, _)| begun == path).map(|(_, program)| program)
    }

    /// Holds the listener of a unit, or closes it; the service manager does the same.
    fn hold(&mut self, unit: &UnitId, listener: Option<OwnedFd>) {
        if let Some(manager) = &self.remembered.manager {
            match &listener {
                Some(listener) => manager.keep(unit, listener.as_fd()),
                None => manager.give_up(unit),
            }
        }
        self.held(unit).listener = listener;
    }

    fn held(&mut self, unit: &UnitId) -> &mut Held {
        held(&mut self.held, &self.dirs, unit)
    }

    fn live(&self, unit: &UnitId) -> Option<&Live> {
        self.held.get(unit)?.live.as_ref()
    }

    fn watch(
        &mut self,
        unit: &UnitId,
        port: Option<&Port>,
        (process, record): (Process, Box<Record>),
        adopted: bool,
        log_length: u64,
        instance: Instance,
    ) {
        let (process, refresh) = (Arc::new(process), Arc::new(Notify::new()));
        let (messages, names) = (self.messages.clone(), self.names.clone());
        let log = (self.dirs.log(unit), log_length);
        let held = self.held(unit);
        let watched = Watched {
            unit: unit.clone(),
            instance,
            process: Arc::clone(&process),
            files: held.files.clone(),
            token: record.token.clone(),
            port: port.cloned(),
            names,
            log,
            messages,
            refresh: Arc::clone(&refresh),
        };
        held.live = Some(Live { process, instance, record, refresh, _tasks: watched.watch(adopted) });
    }

    /// Has a helper find an answer out.
    fn answer(&mut self, ticket: Ticket, answer: impl Future<Output = Answer> + Send + 'static) {
        let messages = self.messages.clone();
        self.helpers.spawn(async move {
            let _ = messages.send(Message::Input(Input::Answered { ticket, answer: answer.await })).await;
        });
    }

    fn try_spawn(
        &mut self,
        spec: &ProcessSpec,
        port: Option<&Port>,
    ) -> Result<((Process, Box<Record>), u64), Event> {
        let fail = |why: String| Event::SpawnFailed { why };
        let id = spec.id();
        let (config, log) = (self.dirs.config(id), self.dirs.log(id));
        let held = held(&mut self.held, &self.dirs, id);
        held.files.create().map_err(|error| fail(error.to_string()))?;
        let AliveLock::Free(lock) = held.files.wait_for_lock().map_err(|error| fail(error.to_string()))?
        else {
            return Err(Event::Unproven { why: "a process that it left behind holds its lock".to_owned() });
        };
        if let (None, Some(port)) = (&held.listener, port) {
            let listener = listeners::bind(port).map_err(|error| fail(error.to_string()))?;
            if let Some(manager) = &self.remembered.manager {
                manager.keep(id, listener.as_fd());
            }
            held.listener = Some(listener);
        }
        let text = config_text(spec);
        if let Err(error) = write_atomic(&config, text.as_bytes()) {
            tracing::warn!(unit = %id, %error, "config not written; the process has it in memory");
        }
        let path = held.files.control();
        let (control, socket) = packet::Listener::bind(&path)
            .and_then(|control| Ok((control, control::unix::hold(&path)?)))
            .map_err(|error| fail(format!("control socket {}: {error}", path.display())))?;
        if logs::is_full(&log)
            && let Err(error) = logs::rotate(&log)
        {
            tracing::warn!(unit = %id, %error, "log not rotated");
        }
        let log = match tell_change(&mut held.log_fails, logs::open(&log), &log) {
            Some(log) => log,
            // Nobody waits for a picture because of a log. It is given one as soon as that can be opened.
            None => File::options()
                .append(true)
                .open("/dev/null")
                .map_err(|error| fail(format!("/dev/null: {error}")))?,
        };
        let log_length = log.metadata().map_or(0, |metadata| metadata.len());
        let token = held.files.begin(&lock).map_err(|error| fail(error.to_string()))?;
        let mut lent = Lent::default();
        if let Some(listener) = &held.listener {
            lent.add(
                Name::Listener,
                listener
                    .try_clone()
                    .map_err(|error| fail(format!("the listener cannot be lent: {error}")))?,
            );
        }
        lent.add(Name::Control, control);
        lent.add(Name::Socket, socket);
        lent.add(Name::Lock, lock);
        let in_memory = |name, text: &str| {
            fds::in_memory(name, text.as_bytes()).map_err(|error| fail(format!("no memory: {error}")))
        };
        lent.add(Name::Config, in_memory(fds::CONFIG, &text)?);
        if spec.role() != Role::Encoder {
            lent.add(Name::Secret, in_memory(fds::SECRET, &self.remembered.secret)?);
        }
        let listener_fd = lent.number(Name::Listener);
        held.config = Some(text);
        let process = self
            .spawner
            .spawn(Given {
                subcommand: if spec.role() == Role::Encoder { "encoder" } else { "worker" },
                program: held.next.as_ref(),
                config: &config,
                log,
                lent,
                descriptors: match spec {
                    ProcessSpec::Worker(spec) => spec.fds_needed(),
                    ProcessSpec::Encoder(_) => ENCODER_FDS,
                },
            })
            .map_err(|error| {
                held.files.forget();
                fail(error.to_string())
            })?;
        let record = Box::new(Record {
            schema: SCHEMA.to_owned(),
            unit: id.clone(),
            token,
            boot_id: self.remembered.boot_id.clone(),
            process: process.identity(),
            listener_fd,
        });
        if let Err(error) = held.files.write(&record) {
            // The token in the lock file is proof enough.
            tracing::warn!(unit = %id, %error, "process not recorded");
        }
        Ok(((process, record), log_length))
    }
}

fn held<'a>(all: &'a mut BTreeMap<UnitId, Held>, dirs: &ClusterDirs, unit: &UnitId) -> &'a mut Held {
    all.entry(unit.clone()).or_insert_with(|| Held {
        files: UnitFiles::new(dirs.unit(unit)),
        listener: None,
        found: None,
        live: None,
        log_fails: None,
        config: None,
        before: None,
        next: None,
        log_before: 0,
    })
}

/// Logs that something begins to fail, or works again; `fails` remembers which.
fn tell_change<T>(fails: &mut Option<String>, result: std::io::Result<T>, path: &Path) -> Option<T> {
    match result {
        Ok(done) => {
            if fails.take().is_some() {
                tracing::info!(path = %path.display(), "log opened again");
            }
            Some(done)
        }
        Err(error) => {
            if fails.replace(format!("{} cannot be opened: {error}", path.display())).is_none() {
                tracing::warn!(path = %path.display(), %error, "log not opened; what would be written there is lost or goes to the old one");
            }
            None
        }
    }
}

fn untouched(problems: &[preflight::Problem]) -> String {
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!("nothing was touched: {}", said.join("\n  "))
}

/// The text of a generated config.
fn config_text(spec: &ProcessSpec) -> String {
    match spec {
        ProcessSpec::Worker(spec) => spec.to_file_text(),
        ProcessSpec::Encoder(spec) => spec.to_file_text(),
    }
}
