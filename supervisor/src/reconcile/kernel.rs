//! What the reconciler takes in, and what it has done: the seam between decisions and the machine they are about.
//!
//! [`Kernel`] has two implementers: `exec::Processes`, and the simulation's. No call waits. What takes time is begun, and
//! its answer comes back as an [`Input`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::events::{By, Happening};
use cluster::plan::HostPart;
use cluster::stats::{ProcessStats, StreamStats};
use cluster::status::{self, Health, Status};
use cluster::{Cluster, Port, ProcessSpec, UnitId, WorkerSpec};
use control::api::{Apply, Restart, Upgrade, Upgraded};
use control::{Error, cause};

use crate::machine::keeper::Keeper;
use crate::machine::state::Event;

/// Tells one process of a unit from the next.
pub(crate) type Instance = u64;
/// Who is owed an answer.
pub(crate) type Client = u64;
/// A question that a command waits for.
pub(crate) type Ticket = u64;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// To a process. Of an earlier one of its unit it means nothing any more.
    Process {
        /// The unit.
        unit: UnitId,
        /// The process.
        instance: Instance,
        /// What.
        what: What,
    },
    /// The answer to [`Kernel::look`].
    Looked {
        /// The unit.
        unit: UnitId,
        /// What there is.
        look: Look,
    },
    /// The answer to a question.
    Answered {
        /// Which.
        ticket: Ticket,
        /// The answer.
        answer: Answer,
    },
    /// A client asks.
    Asked {
        /// Who is to be answered.
        client: Client,
        /// Who that is, if it is known.
        by: Option<By>,
        /// What.
        command: Command,
    },
    /// What is wrong with the place where logs and state are kept now.
    Warnings(Vec<String>),
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGQUIT.
    Leave,
    /// Nothing but time.
    Time,
}

/// What happened to a process.
#[derive(Debug)]
pub(crate) enum What {
    /// For the unit's machine.
    Event(Event),
    /// Why it is not ready yet.
    NotReady(String),
    /// Who serves there, when that is new.
    Worker(Worker),
    /// It answered.
    Report(Report),
    /// The RTMP connect.
    Probe(Result<(), String>),
    /// What is wrong with the name of its host, if anything is.
    Name(Option<(Health, String)>),
    /// How its keeper is found, when that is another way than before.
    Keeper(Keeper),
    /// What it wrote to its log before it ended; its end follows.
    LastWords(String),
}

/// The process that serves: of a port a worker of the keeper that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    /// Its id.
    pub(crate) pid: u32,
    /// So many ended before it.
    pub(crate) generation: u32,
    /// So many of them made place, as they were asked to.
    pub(crate) renewed: u32,
    /// How the one before it ended.
    pub(crate) cause: Option<String>,
    /// It uses nothing of what those before it left.
    pub(crate) is_cold: bool,
    /// Connections of the one before it that it could not go on with.
    pub(crate) lost: u32,
    /// Its version.
    pub(crate) version: String,
    /// For how long it has run.
    pub(crate) age: Duration,
}

/// A report of a process.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// When it came.
    pub(crate) at: Instant,
    /// Of the process.
    pub(crate) process: ProcessStats,
    /// Of its streams.
    pub(crate) streams: Vec<StreamStats>,
}

/// What was found of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// No process.
    Nothing,
    /// Its process, proved, and held by the kernel until [`Kernel::adopt`].
    Process {
        /// Its id: of a port the keeper's.
        pid: u32,
        /// The process that serves: of a port the worker.
        serving: u32,
        /// It does not answer; the watchdog must judge it.
        silent: bool,
        /// For how long it has run.
        age: Duration,
    },
    /// Something that holds the unit's lock and cannot be proved to be its process.
    Unknown {
        /// What is missing, for a person.
        why: String,
    },
}

/// The answer to a question.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To [`Kernel::parse`].
    Parsed(Result<Cluster, Error>),
    /// To [`Kernel::configure`].
    Configured(Result<(), String>),
    /// To [`Kernel::examine`]; why the program cannot be used, for a person.
    Examined(Result<Examined, String>),
    /// To [`Kernel::renew`].
    Renewed(Result<(), Error>),
    /// To [`Kernel::play`].
    Played(Result<(), Unplayed>),
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// What a start would run now.
    OfStart,
    /// Another one.
    At(PathBuf),
    /// What a unit ran before it was given that.
    Before,
}

impl Program {
    /// What a worker has made place for, where another one runs this program then.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::OfStart => cause::RESTART,
            Self::At(_) => "upgrade",
            Self::Before => "upgrade taken back",
        }
    }
}

/// What a program would make of ports that run others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Examined {
    /// Its version.
    pub(crate) version: String,
    /// The version that each port runs, as far as it says.
    pub(crate) before: BTreeMap<UnitId, String>,
    /// Ports of whose workers it reads nothing: it would not go on with their connections.
    pub(crate) unread: Vec<UnitId>,
    /// Ports whose programs read nothing of what its workers leave.
    pub(crate) unreadable: Vec<UnitId>,
}

/// Why no keyframe came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unplayed {
    /// For a person.
    pub(crate) why: String,
    /// The process has all the players it takes.
    pub(crate) is_full: bool,
}

/// What a client asks.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// How all is.
    Status,
    /// What bringing this into force would do; or why it cannot be read.
    Plan(Result<Box<Cluster>, Error>),
    /// Bring a changed file into force.
    Apply(Apply),
    /// Restart processes.
    Restart(Restart),
    /// Run another program.
    Upgrade(Upgrade),
    /// Stop all.
    Down,
}

/// A cluster file in force.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    /// Where it came from, its text, and whose hosts are here.
    pub(crate) file: Apply,
    /// What it says.
    pub(crate) cluster: Cluster,
}

/// What was found beside what the file in force asks for: a supervisor was killed in the middle of a change.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    /// Processes that the file does not name.
    pub(crate) surplus: Vec<(ProcessSpec, Option<Port>)>,
    /// Units that do not listen where the file says, and where they do.
    pub(crate) misplaced: Vec<(UnitId, SocketAddr)>,
    /// The encoder does not run as the file says.
    pub(crate) is_encoder_old: bool,
    /// What is known of those that were leaving their places.
    pub(crate) on_record: BTreeMap<UnitId, OnRecord>,
}

/// What is written down of a port that leaves its place, for the next supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnRecord {
    /// How much of its time is left.
    pub(crate) left: Duration,
    /// How much it was given.
    pub(crate) limit: Duration,
    /// Whoever is left then may be disconnected.
    pub(crate) consent: bool,
}

/// All that a supervisor does to the machine and tells to clients. Nothing here waits, and every question gets its
/// answer.
pub(crate) trait Kernel {
    /// A number in 0..1.
    fn random(&mut self) -> f64;

    /// Starts a process of a unit; returns its pid and when it was forked, or what the unit's machine is to take instead.
    fn spawn(
        &mut self,
        spec: &ProcessSpec,
        port: Option<&Port>,
        instance: Instance,
    ) -> Result<(u32, Instant), Event>;
    /// Takes over the process that [`Look::Process`] told of.
    fn adopt(&mut self, unit: &UnitId, port: Option<&Port>, instance: Instance);
    /// Asks a process to stop; [`Event::AskFailed`] follows if it does not say that it will.
    fn ask_stop(&mut self, unit: &UnitId);
    /// Sends SIGTERM to a unit's process.
    fn terminate(&mut self, unit: &UnitId);
    /// Sends SIGKILL to a unit's process.
    fn kill(&mut self, unit: &UnitId);
    /// Drops what is kept of a unit's process, which has ended.
    fn forget(&mut self, unit: &UnitId);
    /// Asks a process for a report now.
    fn refresh(&mut self, unit: &UnitId);
    /// Looks for what there is of a unit; [`Input::Looked`] follows.
    fn look(&mut self, unit: &UnitId);
    /// Closes the port of a unit, where nobody will serve; so does [`remove`](Self::remove).
    fn close_port(&mut self, unit: &UnitId);
    /// Removes what is remembered of a unit without a process; its generated config only if it is not `wanted` again.
    fn remove(&mut self, unit: &UnitId, wanted: bool);

    /// Writes down that a unit leaves its place, or that it does not any more.
    fn note_departure(&mut self, unit: &UnitId, departure: Option<OnRecord>);

    /// Reads a cluster file and checks that its hosts are this machine; [`Answer::Parsed`] follows.
    fn parse(&mut self, ticket: Ticket, file: &Apply);
    /// Checks what can be checked of `new`, and binds the ports that are added.
    ///
    /// # Errors
    /// All that is wrong, a line each; then nothing is bound.
    fn prepare(&mut self, new: &Cluster, added: &[&Port]) -> Result<(), String>;
    /// Writes the generated config of a unit.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is whole.
    fn write_config(&mut self, spec: &ProcessSpec) -> Result<(), String>;
    /// Remembers a file as the one in force, who asked for it and what it changes; gives its number.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is whole.
    fn put_in_force(&mut self, file: &Apply, by: Option<By>, what: String) -> Result<u64, String>;
    /// Has a running worker take a spec; [`Answer::Configured`] follows.
    fn configure(&mut self, ticket: Ticket, spec: &WorkerSpec);
    /// Asks a program what it would make of those of these ports that run; [`Answer::Examined`] follows. Not of [`Program::Before`].
    fn examine(&mut self, ticket: Ticket, program: &Program, units: &[UnitId]);
    /// Has a running worker make place for one of `program` with this spec; [`Answer::Renewed`] follows, before the other one is there.
    fn renew(&mut self, ticket: Ticket, spec: &WorkerSpec, program: &Program);
    /// Whether a unit's process runs `program`.
    fn is_running(&mut self, unit: &UnitId, program: &Program) -> bool;
    /// Has the starts of a unit run `program` until another is named: where it is not [`Program::At`], what every start runs.
    fn start_next(&mut self, unit: &UnitId, program: &Program);
    /// Whether the program of an upgrade is still what is at its path.
    fn is_in_place(&mut self, path: &Path) -> bool;
    /// The program that a unit's process runs, as far as the system tells.
    fn program(&self, unit: &UnitId) -> Option<status::Program>;
    /// The path of the program that a start would run now, where its file is or was, and whether it is there.
    fn next_program(&self) -> (PathBuf, bool);
    /// What a unit has written to its log of trouble since it was given the program of an upgrade.
    fn last_words(&self, unit: &UnitId) -> Option<String>;
    /// Every start runs `program` from now on.
    fn install(&mut self, program: &Path);
    /// Plays a URL until its first keyframe, for `limit` at most; [`Answer::Played`] follows.
    fn play(&mut self, ticket: Ticket, url: &str, limit: Duration);

    /// Keeps what happened, for whoever asks for events.
    fn record(&mut self, event: Happening);

    /// Tells a client, if there is one, of progress.
    fn say(&mut self, client: Option<Client>, line: String);
    /// Tells a client, if there is one, what became of an upgrade.
    fn report(&mut self, client: Option<Client>, upgraded: Upgraded);
    /// Gives a client, if there is one, the answer to its command: the last it hears.
    fn finish(&mut self, client: Option<Client>, outcome: Result<(), Error>);
    /// Gives a client the status: the last it hears.
    fn show(&mut self, client: Client, status: Status);
    /// Gives a client a plan, or says why there is none: the last it hears.
    fn show_plan(&mut self, client: Client, plan: Result<HostPart, Error>);

    /// The cluster was told to go down: a supervisor that is started by the machine leaves it so.
    fn take_down(&mut self);
    /// Takes no requests any more and closes all ports.
    fn close(&mut self);
    /// Removes what vanishes with the last process.
    ///
    /// # Errors
    /// When something cannot be removed.
    fn remove_run(&mut self) -> Result<(), String>;
}
