//! The [`Kernel`] that really does it: processes, listeners, files, clients.

mod secret;
mod upkeep;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cluster::events::{self, By, Events, Happening, Kind};
use cluster::plan::HostPart;
use cluster::status::{self, Status};
use cluster::{Cluster, Port, ProcessSpec, Role, UnitId, WorkerSpec};
use control::api::{Apply, Upgraded};
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
use crate::exec::record::{AliveLock, Departing, Record, SCHEMA, UnitFiles};
use crate::exec::self_check;
use crate::exec::strays;
use crate::host::dirs::ClusterDirs;
use crate::host::files::{FileId, write_atomic};
use crate::host::journal::Journal;
use crate::host::last_words::last_words;
use crate::host::systemd::Manager;
use crate::host::{history, logs, preflight, procfs};
use crate::machine::keeper::Halt;
use crate::machine::state::{Event, STOP_STEP};
use crate::probe;
use crate::reconcile::config::Parse;
use crate::reconcile::events::{BEFORE, WOKEN, WORKER_WOKEN, of_cluster, of_unit};
use crate::reconcile::kernel::{
    Answer, Client, Command, Input, Instance, Kernel, Look, OnRecord, Program, Ticket, Unplayed, What,
};

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

impl Kernel for Processes {
    fn random(&mut self) -> f64 {
        crate::exec::monitor::random()
    }

    fn spawn(
        &mut self,
        spec: &ProcessSpec,
        port: Option<&Port>,
        instance: Instance,
    ) -> Result<(u32, Instant), Event> {
        self.reserve.clear();
        let spawned = self.try_spawn(spec, port);
        self.fill_reserve();
        let (process, log_length) = spawned?;
        let (pid, now) = (process.0.identity().pid, Instant::now());
        tracing::info!(unit = %spec.id(), pid, "started");
        self.watch(spec.id(), port, process, false, log_length, instance);
        Ok((pid, now))
    }

    fn adopt(&mut self, unit: &UnitId, port: Option<&Port>, instance: Instance) {
        let held = self.held(unit);
        let Some((process, listener, record)) = held.found.take() else { return };
        if let Some(port) = port {
            let bound = listener.filter(|listener| listeners::is_bound_to(listener, port));
            let held = held.listener.take();
            self.hold(unit, bound.or(held));
        }
        let has_listener = self.held(unit).listener.is_some();
        tracing::info!(%unit, pid = process.identity().pid, listener = has_listener, "adopted");
        // The end of an adopted process is not told, and so neither what it said of it.
        self.watch(unit, port, (process, record), true, 0, instance);
    }

    fn ask_stop(&mut self, unit: &UnitId) {
        let Some(held) = self.held.get(unit) else { return };
        let Some(live) = &held.live else { return };
        let (unit, instance, reach) = (unit.clone(), live.instance, held.reach());
        let messages = self.messages.clone();
        self.helpers.spawn(async move {
            if let Err(error) = reach.ask(&Request::Stop, None, STOP_STEP).await {
                tracing::info!(%unit, %error, "could not be asked to stop");
                let what = What::Event(Event::AskFailed);
                let _ = messages.send(Message::Input(Input::Process { unit, instance, what })).await;
            }
        });
    }

    fn terminate(&mut self, unit: &UnitId) {
        if let Some(live) = self.live(unit) {
            live.process.terminate();
        }
    }

    fn kill(&mut self, unit: &UnitId) {
        if let Some(live) = self.live(unit) {
            live.process.kill();
        }
    }

    fn forget(&mut self, unit: &UnitId) {
        let held = self.held(unit);
        held.live = None;
        held.files.forget();
    }

    fn refresh(&mut self, unit: &UnitId) {
        if let Some(live) = self.live(unit) {
            live.refresh.notify_one();
        }
    }

    fn look(&mut self, unit: &UnitId) {
        let (files, boot_id) = (self.held(unit).files.clone(), self.remembered.boot_id.clone());
        let (unit, messages) = (unit.clone(), self.messages.clone());
        let stray = strays::find(&self.dirs).remove(&unit);
        self.helpers.spawn(async move {
            let found = adopt::find(&unit, &files, stray, &boot_id).await;
            let found = found.unwrap_or_else(|error| Found::Unknown { why: error.to_string() });
            let _ = messages.send(Message::Found(unit, found)).await;
        });
    }

    fn close_port(&mut self, unit: &UnitId) {
        self.close_listener(unit);
    }

    fn remove(&mut self, unit: &UnitId, wanted: bool) {
        self.close_listener(unit);
        self.held(unit).files.remove();
        self.held.remove(unit);
        if !wanted {
            let _ = std::fs::remove_file(self.dirs.config(unit));
        }
    }

    fn note_departure(&mut self, unit: &UnitId, departure: Option<OnRecord>) {
        let departing = departure.map(|OnRecord { left, limit, consent }| {
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Departing { until_ms: ms(procfs::since_boot() + left), limit_ms: ms(limit), consent }
        });
        if let Err(error) = self.held(unit).files.note_departure(departing) {
            // The next supervisor disconnects nobody then who was not asked for.
            tracing::warn!(%unit, %error, "that it leaves is not written down");
        }
    }

    fn parse(&mut self, ticket: Ticket, file: &Apply) {
        let parsed = self.read(file);
        self.answer(ticket, async move { Answer::Parsed(parsed.await) });
    }

    fn prepare(&mut self, new: &Cluster, added: &[&Port]) -> Result<(), String> {
        let specs: Vec<_> = new.ports().map(|port| new.worker_spec(port, self.dirs.secret())).collect();
        let problems = preflight::check(new, &specs);
        let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let bound = listeners::bind_all(added.iter().copied());
        problems.extend(bound.as_ref().err().into_iter().flatten().map(ToString::to_string));
        match bound {
            Ok(bound) if problems.is_empty() => {
                for (unit, listener) in bound {
                    self.hold(&unit, Some(listener));
                }
                Ok(())
            }
            Ok(_) | Err(_) => Err(problems.join("\n  ")),
        }
    }

    fn write_config(&mut self, spec: &ProcessSpec) -> Result<(), String> {
        let path = self.dirs.config(spec.id());
        let text = config_text(spec);
        write_atomic(&path, text.as_bytes()).map_err(|error| error.to_string())?;
        self.held(spec.id()).config = Some(text);
        Ok(())
    }

    fn put_in_force(&mut self, file: &Apply, by: Option<By>, what: String) -> Result<u64, String> {
        let new = history::New { file, by, what };
        let number =
            history::put_in_force(&self.dirs, new, SystemTime::now()).map_err(|error| error.to_string())?;
        self.remembered.in_force = file.clone();
        Ok(number)
    }

    fn configure(&mut self, ticket: Ticket, spec: &WorkerSpec) {
        let process = self.live(&spec.id).map(|live| Arc::clone(&live.process));
        let reach = self.held(&spec.id).reach();
        let spec = spec.clone();
        self.answer(ticket, async move {
            let told = async {
                let process = process.ok_or_else(|| "it has just ended".to_owned())?;
                process.raise_fd_limit(spec.fds_needed()).map_err(|error| error.to_string())?;
                let request = Request::Configure { spec: Box::new(spec) };
                let asked = reach.ask(&request, None, CONFIGURE_LIMIT).await;
                asked.map(drop).map_err(|error| error.to_string())
            };
            Answer::Configured(told.await)
        });
    }

    fn examine(&mut self, ticket: Ticket, program: &Program, units: &[UnitId]) {
        let path = match program {
            Program::At(path) => {
                self.upgrade = Spawner::open(path).ok().map(|program| (path.clone(), program));
                path.clone()
            }
            Program::OfStart | Program::Before => self.spawner.program_path(),
        };
        let keeper = |unit: &UnitId| Some((unit.clone(), self.live(unit)?.process.identity().pid));
        let keepers: Vec<_> = units.iter().filter_map(keeper).collect();
        let examined = tokio::task::spawn_blocking(move || {
            self_check::examine(&path, keepers)
                .map_err(|why| format!("{} cannot be used: {why}", path.display()))
        });
        self.answer(ticket, async move {
            Answer::Examined(examined.await.unwrap_or_else(|error| Err(error.to_string())))
        });
    }

    fn renew(&mut self, ticket: Ticket, spec: &WorkerSpec, program: &Program) {
        let failed = |why: String| Error::new(Code::Failed, why);
        let process = self.live(&spec.id).map(|live| Arc::clone(&live.process));
        let program = match program {
            Program::OfStart => self.spawner.program(),
            Program::At(path) => {
                let length = std::fs::metadata(self.dirs.log(&spec.id)).map_or(0, |log| log.len());
                self.held(&spec.id).log_before = length;
                // Whatever becomes of its file.
                self.held(&spec.id).before = process.as_ref().and_then(|process| process.program().ok());
                self.of_upgrade(path).map_or_else(|| Spawner::open(path), OwnedFd::try_clone)
            }
            Program::Before => {
                let before = self.held(&spec.id).before.as_ref().map(OwnedFd::try_clone);
                before.unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into()))
            }
        };
        let config = fds::in_memory(fds::CONFIG, spec.to_file_text().as_bytes());
        let (reach, needed) = (self.held(&spec.id).reach(), spec.fds_needed());
        // Nobody else can start the next worker.
        let keeper = process.as_ref().map(|process| process.identity().pid);
        let halt = process.as_ref().and_then(|process| process.wake());
        if halt == Some(Halt::Stopped) {
            self.record(of_unit(Kind::Woken, &spec.id, keeper, WOKEN));
        }
        self.answer(ticket, async move {
            let told = async {
                let process = process.ok_or_else(|| failed("it has just ended".to_owned()))?;
                if halt == Some(Halt::Traced) {
                    let why = format!("a debugger holds its keeper (pid {})", process.identity().pid);
                    return Err(Error::new(Code::Unsupported, why));
                }
                let (program, config) = (
                    program.map_err(|error| failed(format!("the program cannot be opened: {error}")))?,
                    config.map_err(|error| failed(format!("no memory: {error}")))?,
                );
                process.raise_fd_limit(needed).map_err(|error| failed(error.to_string()))?;
                let fds = [program.as_fd(), config.as_fd()];
                match reach.ask_with(&Request::Renew, &fds, CONFIGURE_LIMIT).await {
                    Ok(_) => Ok(()),
                    Err(AskError::Refused(error)) => Err(error),
                    Err(error) => Err(failed(error.to_string())),
                }
            };
            Answer::Renewed(told.await)
        });
    }

    fn is_running(&mut self, unit: &UnitId, program: &Program) -> bool {
        let Some(held) = self.held.get(unit) else { return false };
        let path = match program {
            Program::At(path) => self.of_upgrade(path).map_or_else(|| path.clone(), fds::path_of),
            Program::OfStart => self.spawner.program_path(),
            Program::Before => match &held.before {
                Some(before) => fds::path_of(before),
                None => return false,
            },
        };
        held.live.as_ref().is_some_and(|live| live.process.is_running(&path))
    }

    fn start_next(&mut self, unit: &UnitId, program: &Program) {
        let program = match program {
            Program::At(path) => self.of_upgrade(path).and_then(|program| program.try_clone().ok()),
            Program::OfStart | Program::Before => None,
        };
        self.held(unit).next = program;
    }

    fn is_in_place(&mut self, path: &Path) -> bool {
        let file = FileId::behind(path);
        file.is_some()
            && self.of_upgrade(path).is_none_or(|begun| FileId::behind(&fds::path_of(begun)) == file)
    }

    fn program(&self, unit: &UnitId) -> Option<status::Program> {
        let (path, file) = self.live(unit)?.process.runs()?;
        let (replaced, next) = (FileId::behind(&path) != Some(file), self.spawner.next() == Some(file));
        Some(status::Program { path: path.display().to_string(), replaced, next })
    }

    fn next_program(&self) -> (PathBuf, bool) {
        let path = self.spawner.next_path();
        let is_there = path.exists();
        (path, is_there)
    }

    fn last_words(&self, unit: &UnitId) -> Option<String> {
        last_words(&self.dirs.log(unit), self.held.get(unit)?.log_before)
    }

    fn install(&mut self, program: &Path) {
        tracing::info!(program = %program.display(), "every start runs it from now on");
        let text = format!("every start runs {} from now on", program.display());
        self.record(of_cluster(Kind::Program, None, text));
        self.spawner.install(program.to_owned());
    }

    fn play(&mut self, ticket: Ticket, url: &str, limit: Duration) {
        let url = url.to_owned();
        self.answer(ticket, async move {
            let played = probe::play(&url, limit).await;
            Answer::Played(
                played
                    .map(drop)
                    .map_err(|error| Unplayed { why: error.to_string(), is_full: error.is_full() }),
            )
        });
    }

    fn record(&mut self, event: Happening) {
        // The supervisor before has told of it, if it saw that.
        if event.text.starts_with(BEFORE) && self.journal.has_worker(&event) {
            return;
        }
        self.journal.add(SystemTime::now(), event);
    }

    fn say(&mut self, client: Option<Client>, line: String) {
        tracing::info!("{line}");
        if let Some(reply) = client.and_then(|client| self.clients.get(&client)) {
            reply.say(line);
        }
    }

    fn report(&mut self, client: Option<Client>, upgraded: Upgraded) {
        if let Some(reply) = client.and_then(|client| self.clients.get(&client)) {
            reply.report(upgraded);
        }
    }

    fn finish(&mut self, client: Option<Client>, outcome: Result<(), Error>) {
        if let Err(error) = &outcome {
            tracing::warn!("{error}");
        }
        if let Some(reply) = client.and_then(|client| self.clients.remove(&client)) {
            reply.finish(outcome);
        }
    }

    fn show(&mut self, client: Client, status: Status) {
        if let Some(reply) = self.clients.remove(&client) {
            reply.show(status);
        }
    }

    fn show_plan(&mut self, client: Client, plan: Result<HostPart, Error>) {
        if let Some(reply) = self.clients.remove(&client) {
            reply.show_plan(plan);
        }
    }

    fn take_down(&mut self) {
        self.dirs.stay_down();
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.dirs.remove_agent_socket();
        let all: Vec<UnitId> = self.held.keys().cloned().collect();
        all.iter().for_each(|unit| self.close_listener(unit));
    }

    fn remove_run(&mut self) -> Result<(), String> {
        self.dirs.remove_run().map_err(|error| error.to_string())
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
