//! The machines of a cluster that is on more than this one, and the sessions with srsctl on each.
//!
//! A command of a cluster that is all on this machine asks its supervisor, and none of this is used. Else it has a [`Fleet`]: a [`Place`] for
//! each machine, this one included, which is asked as the others are, by a session within this process.

pub(crate) mod operation;
pub(crate) mod serve;
pub(crate) mod session;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cluster::file::ClusterFile;
use cluster::{Cluster, Machine, Port, UnitId};
use remote::{Exchange, Hello, Problem, Session, Ssh};
use serde::de::DeserializeOwned;
use supervisor::{Client, ClusterDirs, Dial, Dialling, Holder, StateRoots, Stream, preflight};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::operation::{Leased, Look, Operation};
use self::serve::Role;
use self::session::{Redial, session};
use crate::failure::{Failure, code};
use crate::subject::{Global, Subject, no_such_host, parse_in};
use crate::terminal::complain;

/// For so long a machine may take to answer a question that has one document for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of such a document, at most.
const MAX_ANSWER: u64 = 32 << 20;
/// Bytes of a line that is told by another machine, at most.
const MAX_LINE: u64 = 8 << 20;

/// Which machines a command is for.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Reach {
    /// Of a cluster on several machines only that of this host, as written in the cluster's file; may be given several times
    #[arg(long, value_name = "HOST")]
    pub(crate) limit: Vec<String>,
    /// Go on without machines that cannot be reached, and end with 6
    #[arg(long)]
    pub(crate) skip_unreachable: bool,
}

/// The machines of a cluster.
#[derive(Debug)]
pub(crate) struct Fleet {
    dirs: ClusterDirs,
    roots: StateRoots,
    ssh: Ssh,
    places: Vec<Place>,
    /// Only some hosts are meant.
    is_limited: bool,
    /// Machines that were left out, since they cannot be reached.
    skipped: Vec<String>,
}

/// A machine of the cluster; the first of its hosts is its name.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    machine: Machine,
    /// The ports that are there, as the file says.
    ports: Vec<UnitId>,
    session: Option<Result<Session, Problem>>,
    /// The file has none of its hosts any more; the one in force has.
    is_leaving: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.fmt(f)
    }
}

impl Fleet {
    /// That of the cluster that `subject` is; none where all of it is on this machine.
    ///
    /// # Errors
    /// When the cluster has neither a file that is sound nor one in force.
    pub(crate) fn of(global: &Global, subject: &Subject) -> Result<Option<Self>, Failure> {
        // What no file tells of can only be here.
        let Ok(cluster) = subject.cluster() else { return Ok(None) };
        Ok(Self::of_cluster(global, subject, &cluster))
    }

    /// That of this cluster, and of what runs here of another file: none where all of both is on this machine.
    pub(crate) fn of_cluster(global: &Global, subject: &Subject, cluster: &Cluster) -> Option<Self> {
        let (dirs, roots) = (subject.dirs().clone(), subject.roots().clone());
        let ssh = ssh(global, &dirs);
        let places = cluster.machines(preflight::here()).into_iter();
        let places = places.map(|machine| Place::new(machine, cluster, false)).collect();
        let mut this = Self { dirs, roots, ssh, places, is_limited: false, skipped: Vec::new() };
        if let Some(old) = subject.running() {
            this.join(&old);
            this.join_here(subject);
        }
        this.places.iter().any(Place::is_elsewhere).then_some(this)
    }

    /// Adds the machines of the file in force that the one of this fleet has no more: what runs there is the cluster's.
    fn join(&mut self, in_force: &Cluster) {
        for machine in in_force.machines(preflight::here()) {
            let is_known = |place: &Place| {
                let hosts = &place.machine.hosts;
                place.machine.way == machine.way || hosts.iter().any(|host| machine.hosts.contains(host))
            };
            if !self.places.iter().any(is_known) {
                self.places.push(Place::new(machine, in_force, true));
            }
        }
    }

    /// Adds this machine, where it has left the file in force too, and something of the cluster still runs.
    fn join_here(&mut self, subject: &Subject) {
        let hosts = subject.dirs().hosts_in_force().unwrap_or_default();
        let is_known = |place: &Place| {
            place.machine.way.is_none() || place.machine.hosts.iter().any(|host| hosts.contains(host))
        };
        if !hosts.is_empty() && !self.places.iter().any(is_known) {
            let machine = Machine { way: None, hosts };
            self.places.push(Place { machine, ports: Vec::new(), session: None, is_leaving: true });
        }
    }

    /// The cluster's name.
    pub(crate) fn name(&self) -> &str {
        self.dirs.name()
    }

    /// Where the state of the cluster is kept here.
    pub(crate) fn lib(&self) -> &Path {
        self.dirs.lib()
    }

    /// The machines, that of the origin first.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Leaves out all machines but those of these hosts.
    ///
    /// # Errors
    /// When one of them is no host of the cluster.
    pub(crate) fn limit_to(&mut self, hosts: &[String]) -> Result<(), Failure> {
        let has = |place: &Place, host: &String| place.machine.hosts.contains(host);
        if let Some(host) = hosts.iter().find(|host| !self.places.iter().any(|place| has(place, host))) {
            let known = self.places.iter().flat_map(|place| &place.machine.hosts);
            return Err(no_such_host(host, self.name(), known));
        }
        if !hosts.is_empty() {
            self.is_limited = true;
            self.places.retain(|place| hosts.iter().any(|host| has(place, host)));
        }
        Ok(())
    }

    /// Begins a session with each machine, all at once; which cannot be had is known by [`Fleet::problems`]. Those of the file in force are
    /// among them, as far as one of the others knows it.
    pub(crate) async fn reach(&mut self, may_change: bool) {
        self.begin(may_change).await;
        if !self.is_limited {
            self.join_others().await;
            self.begin(may_change).await;
        }
    }

    async fn begin(&mut self, may_change: bool) {
        let role = if may_change { Role::Operator } else { Role::Viewer };
        let mut tasks = JoinSet::new();
        let places = self.places.iter().enumerate().filter(|(_, place)| place.session.is_none());
        for (index, place) in places {
            let (ssh, roots, machine) = (self.ssh.clone(), self.roots.clone(), place.machine.clone());
            tasks.spawn(async move { (index, session(ssh, roots, role, &machine).await) });
        }
        while let Some(ended) = tasks.join_next().await {
            if let Ok((index, session)) = ended
                && let Some(place) = self.places.get_mut(index)
            {
                place.session = Some(session);
            }
        }
    }

    /// Learns from the machines that were reached which others the file in force there has.
    async fn join_others(&mut self) {
        let mut tasks = JoinSet::new();
        for place in self.places.iter().filter(|place| place.problem().is_none()) {
            let (place, operation) = (place.clone(), Operation::Look { cluster: self.name().to_owned() });
            tasks.spawn(async move { (place.to_string(), place.ask::<Look>(&operation, &[]).await) });
        }
        let mut known: Vec<(String, String)> = Vec::new();
        for (place, look) in tasks.join_all().await {
            // One that does not answer says so when it is asked for more.
            let Some(text) = look.ok().and_then(|look| look.in_force) else { continue };
            if !known.iter().any(|(_, other)| *other == text) {
                known.push((place, text));
            }
        }
        known.sort();
        for (place, text) in known {
            match parse_in(&ClusterFile::new(self.dirs.file_in_force(), text), &self.roots) {
                Ok(cluster) => self.join(&cluster),
                Err(error) => complain(&format!(
                    "{place}: the file in force there is not understood here, so machines that only it has are not looked at: {}",
                    error.to_string().lines().next().unwrap_or_default()
                )),
            }
        }
    }

    /// What is wrong with the machines that were not reached, for a person.
    pub(crate) fn problems(&self) -> Vec<String> {
        let told = |place: &Place| {
            let left =
                if place.is_leaving { " (not in the file any more, but in the one in force)" } else { "" };
            place.problem().map(|problem| format!("{problem}{left}"))
        };
        self.places.iter().filter_map(told).collect()
    }

    /// The same to look, and touch nothing.
    ///
    /// # Errors
    /// When one cannot be reached, or when none is left.
    pub(crate) async fn reach_to_look(&mut self, reach: &Reach) -> Result<(), Failure> {
        self.reach_those(reach, false).await
    }

    async fn reach_those(&mut self, reach: &Reach, may_change: bool) -> Result<(), Failure> {
        let is_known = |host: &String| self.places.iter().any(|place| place.machine.hosts.contains(host));
        if !reach.limit.iter().all(is_known) {
            // Another machine may know it, by the file in force.
            self.reach(may_change).await;
        }
        self.limit_to(&reach.limit)?;
        self.reach(may_change).await;
        let problems = self.problems();
        if !problems.is_empty() {
            if !reach.skip_unreachable || problems.len() == self.places.len() {
                let number = problems.len();
                let them = if number == 1 {
                    "a machine cannot".to_owned()
                } else {
                    format!("{number} machines cannot")
                };
                let name = self.name();
                let all = problems.join("\n");
                return Err(Failure::failed(format!(
                    "nothing was touched: {them} be reached of cluster {name}\n{all}"
                )));
            }
            problems.iter().for_each(|problem| complain(problem));
            let left_out = || self.places.iter().filter(|place| place.problem().is_some());
            for place in left_out().filter(|place| place.is_leaving) {
                complain(&format!(
                    "{place} is not in the file any more, and will not be looked for again: what runs there ends with this command on it: \
                     srsctl down {} --limit {place} --yes",
                    self.name()
                ));
            }
            self.skipped = left_out().map(ToString::to_string).collect();
            self.places.retain(|place| place.problem().is_none());
        }
        Ok(())
    }

    /// Reaches all machines that a change is for, or fails before anything is touched; those that may be left out are told of.
    ///
    /// # Errors
    /// When one cannot be reached or has another version, or when none is left.
    pub(crate) async fn reach_to_change(&mut self, reach: &Reach) -> Result<(), Failure> {
        self.reach_those(reach, true).await?;
        let own = env!("CARGO_PKG_VERSION");
        for place in &self.places {
            let Some(hello) = place.hello() else { continue };
            if !hello.is_near(own) {
                return Err(Failure::failed(format!(
                    "nothing was touched: srsctl {} is on {place}, and this is {own}: more than one minor version apart; \
                     install this one: srsctl host install {place}",
                    hello.version
                )));
            }
            if hello.version != own {
                complain(&format!("{place}: srsctl {} is there, and this is {own}", hello.version));
            }
        }
        Ok(())
    }

    /// Becomes the one who changes the cluster, on each machine in order of name; it lasts as long as the sessions.
    ///
    /// # Errors
    /// When another one has it on one of them.
    pub(crate) async fn take_leases(&self, command: &str) -> Result<(), Failure> {
        let who = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
        let holder = Holder {
            who: who.unwrap_or_else(|| nix::unistd::getuid().to_string()),
            from: serve::hello().host,
            pid: std::process::id(),
            command: command.to_owned(),
            since_ms: 0,
        };
        let mut places: Vec<&Place> = self.places.iter().collect();
        places.sort_by_key(|place| place.to_string());
        for place in places {
            let operation = Operation::Lease { cluster: self.name().to_owned(), holder: holder.clone() };
            let Leased { held } = place.ask(&operation, &[]).await?;
            if let Some(held) = held {
                let name = self.name();
                return Err(Failure::new(
                    code::LOCKED,
                    format!("nothing was touched: somebody else changes cluster {name} on {place}: {held}"),
                ));
            }
        }
        Ok(())
    }

    /// To begin sessions again that are over.
    pub(crate) fn redial(&self) -> Redial {
        Redial::new(self.ssh.clone(), self.roots.clone())
    }

    /// Takes a new session with a machine in the place of the one before.
    pub(crate) fn put(&mut self, machine: &Machine, session: Session) {
        if let Some(place) = self.places.iter_mut().find(|place| place.machine == *machine) {
            place.session = Some(Ok(session));
        }
    }

    /// That a supervisor is in the middle of something: then nothing is begun anywhere.
    ///
    /// # Errors
    /// When one is, as its machine says.
    pub(crate) fn expect_idle(&self, place: &Place, busy: Option<&String>) -> Result<(), Failure> {
        let Some(busy) = busy else { return Ok(()) };
        let name = self.name();
        Err(Failure::new(
            code::LOCKED,
            format!(
                "nothing was touched: the supervisor on {place} is busy: {busy}; try again when that is done: srsctl status {name}"
            ),
        ))
    }

    /// A client of the supervisor there.
    pub(crate) fn client(&self, place: &Place) -> Client {
        let way = Way { session: place.session.clone(), cluster: self.name().to_owned() };
        Client::over(self.dirs.clone(), Arc::new(way))
    }

    /// That a machine is left out, if one is: then not all is done.
    pub(crate) fn partly(&self) -> Option<Failure> {
        let skipped = self.skipped.join(", ");
        (!self.skipped.is_empty())
            .then(|| Failure::new(code::CONSENT, format!("done without {skipped}, which cannot be reached")))
    }

    /// Ends the sessions with the machines that the file has no more.
    pub(crate) async fn let_go(&mut self) {
        let (leaving, rest) =
            std::mem::take(&mut self.places).into_iter().partition(|place| place.is_leaving);
        self.places = rest;
        close(leaving).await;
    }

    /// Ends all sessions, and with them the leases.
    pub(crate) async fn close(self) {
        close(self.places).await;
    }
}

async fn close(places: Vec<Place>) {
    let mut tasks = JoinSet::new();
    for place in places {
        if let Some(Ok(session)) = place.session {
            tasks.spawn(session.close());
        }
    }
    tasks.join_all().await;
}

/// How machines are reached for the cluster of `dirs`.
pub(crate) fn ssh(global: &Global, dirs: &ClusterDirs) -> Ssh {
    Ssh {
        config: global.ssh_config().map(Path::to_owned),
        known_hosts: known_hosts(dirs),
        command: Vec::new(),
    }
}

/// The host keys that are pinned for it.
pub(crate) fn known_hosts(dirs: &ClusterDirs) -> PathBuf {
    dirs.lib().join("known_hosts")
}

impl Place {
    /// The machine with its ports of the cluster, not reached yet.
    pub(crate) fn new(machine: Machine, cluster: &Cluster, is_leaving: bool) -> Self {
        let all = cluster.ports().chain(&cluster.elsewhere);
        let ports = all.filter(|port| machine.hosts.contains(&port.host.name)).map(Port::id).collect();
        Self { machine, ports, session: None, is_leaving }
    }

    /// Whether the file has none of its hosts any more, and the one in force has.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// The machine that it is.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The same with a new session.
    pub(crate) fn with(self, session: Session) -> Self {
        Self { session: Some(Ok(session)), ..self }
    }

    /// Its hosts.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.machine.hosts
    }

    /// The ports that are there, as the file says.
    pub(crate) fn ports(&self) -> &[UnitId] {
        &self.ports
    }

    /// Who is there.
    pub(crate) fn hello(&self) -> Option<&Hello> {
        self.session.as_ref()?.as_ref().ok().map(Session::hello)
    }

    /// Whether it is another machine than this one.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.machine.way.is_some()
    }

    /// How far its clock is before ours, ms.
    pub(crate) fn skew_ms(&self) -> Option<i64> {
        self.session.as_ref()?.as_ref().ok().map(Session::skew_ms)
    }

    /// Why it was not reached.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        self.session.as_ref()?.as_ref().err()
    }

    /// Says where a failure was.
    pub(crate) fn at(&self, failure: &Failure) -> Failure {
        Failure::new(failure.number(), format!("{self}: {failure}"))
    }

    async fn open(&self, operation: &Operation) -> Result<Exchange, Failure> {
        match &self.session {
            Some(Ok(session)) => session.open(operation).await.map_err(Failure::failed),
            Some(Err(problem)) => Err(Failure::failed(problem)),
            None => Err(Failure::failed(format!("{self} was not reached"))),
        }
    }

    /// Asks for what has one document for an answer.
    ///
    /// # Errors
    /// When it is refused, or does not come in time.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        operation: &Operation,
        body: &[u8],
    ) -> Result<T, Failure> {
        let asked = async {
            let mut exchange = self.open(operation).await?;
            exchange.write_all(body).await.map_err(Failure::failed)?;
            exchange.shutdown().await.map_err(Failure::failed)?;
            let mut text = Vec::new();
            (&mut exchange).take(MAX_ANSWER).read_to_end(&mut text).await.map_err(Failure::failed)?;
            match exchange.refused() {
                Some(refused) => Err(self.at(&Failure::new(refused.code, refused.message))),
                None => serde_json::from_slice(&text).map_err(|error| {
                    self.at(&Failure::failed(format!("what it says is not understood: {error}")))
                }),
            }
        };
        let late = || self.at(&Failure::failed(format!("no answer came within {} s", ANSWER.as_secs())));
        timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks for what has lines for an answer; `body` is what it is given first.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(crate) async fn lines(&self, operation: &Operation, body: &[u8]) -> Result<Lines, Failure> {
        let mut exchange = self.open(operation).await?;
        exchange.write_all(body).await.map_err(Failure::failed)?;
        Ok(Lines { place: self.clone(), exchange: BufReader::new(exchange) })
    }
}

/// Lines that a machine tells.
#[derive(Debug)]
pub(crate) struct Lines {
    place: Place,
    exchange: BufReader<Exchange>,
}

impl Lines {
    /// The next one; none at the end.
    ///
    /// # Errors
    /// When what was asked for is not done, or not all of it.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.exchange).take(MAX_LINE).read_until(b'\n', &mut line).await;
        if read.map_err(Failure::failed)? > 0 {
            return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()));
        }
        match self.exchange.get_ref().refused() {
            Some(refused) => Err(self.place.at(&Failure::new(refused.code, refused.message))),
            None => Ok(None),
        }
    }

    /// Says that nothing more is wanted.
    pub(crate) async fn stop(&mut self) {
        let _ = self.exchange.shutdown().await;
    }
}

/// The way to a supervisor through a session.
#[derive(Debug)]
struct Way {
    session: Option<Result<Session, Problem>>,
    cluster: String,
}

impl Dial for Way {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let session = match &self.session {
                Some(Ok(session)) => session,
                Some(Err(problem)) => return Err(problem.to_string()),
                None => return Err("it was not reached".to_owned()),
            };
            let operation = Operation::Api { cluster: self.cluster.clone() };
            // Where it is, whoever asks adds.
            let words = |problem: Problem| format!("{}; {}", problem.cause(), problem.next_step());
            let exchange = session.open(&operation).await.map_err(words)?;
            Ok(Box::new(exchange) as Box<dyn Stream>)
        })
    }
}
