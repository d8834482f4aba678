//! The kernel of the simulation: processes that start late or never, die, freeze and do not hear, in the order that a
//! seed gives. It refuses, loudly, what the real one could not do or must not be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::events::{By, Happening, Kind};
use cluster::plan::HostPart;
use cluster::stats::ProcessStats;
use cluster::status::Status;
use cluster::{Cluster, Drain, Host, Port, ProcessSpec, Role, UnitId, WorkerOptions, WorkerSpec};
use control::api::{Apply, UpgradeResult, Upgraded};
use control::{Code, Error};

use crate::host::dirs::ClusterDirs;
use crate::machine::exit::Exit;
use crate::machine::state::Event;
use crate::reconcile::kernel::{
    Answer, Client, Examined, Input, Instance, Kernel, Leftover, Look, OnRecord, Program, Report, Ticket,
    Unplayed, What, Worker,
};
use crate::reconcile::reconciler::specs;

const MS: Duration = Duration::from_millis(1);

/// Chance from a seed (splitmix64, Steele et al. 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..`bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// In `from`..`to` milliseconds.
    pub(super) fn ms(&mut self, from: u64, to: u64) -> Duration {
        MS * u32::try_from(from + self.below(to - from)).unwrap()
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// What a process heeds when it is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    Asked,
    Terminated,
    Killed,
    /// Sleeps in the kernel through so many SIGKILLs.
    KilledAfter(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) unit: UnitId,
    /// It has ended, and how.
    pub(super) exit: Option<Exit>,
    /// It can be proved to be the cluster's.
    pub(super) proven: bool,
    pub(super) frozen: bool,
    ready: bool,
    /// Workers of it that have made place.
    generation: u32,
    /// It runs the program of an upgrade that is not over.
    pub(super) is_new: bool,
    /// What it was told last.
    pub(super) spec: Option<ProcessSpec>,
    /// Who plays there: they come and go as long as it takes them, and only go then.
    pub(super) players: u32,
    manners: Manners,
    /// A child of the supervisor that runs.
    child: bool,
}

/// What comes at its time. What is for a supervisor is lost with it.
#[derive(Debug)]
enum Due {
    Dies(u32, Exit),
    Freezes(u32),
    GetsReady(u32),
    /// Its next worker serves.
    Renews(u32),
    /// It becomes the program that it was before.
    GoesBack(u32),
    /// It has not said who it is by now, unless it has.
    IsLate(u32),
    /// To the supervisor of this number.
    Tell(u64, Box<Input>),
    /// A report of this process; and then again and again.
    Report(u64, u32, bool),
    /// Another look at a unit.
    Look(u64, UnitId),
}

pub(super) struct Fake {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) random: Random,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    /// Tells one supervisor from the next.
    supervisor: u64,
    due: BTreeMap<(Instant, u64), Due>,
    last: u64,
    pub(super) processes: BTreeMap<u32, Process>,
    /// Those that have not ended.
    pub(super) living: BTreeSet<u32>,
    /// The process that the supervisor holds for each unit.
    pub(super) held: BTreeMap<UnitId, (Instance, u32)>,
    found: BTreeMap<UnitId, u32>,
    /// Clients that are owed an answer.
    pub(super) owed: BTreeSet<Client>,
    /// What was answered since the step began.
    pub(super) answers: Vec<(Client, Result<(), Error>)>,
    /// The newest event of each unit, as this supervisor told it.
    pub(super) told: BTreeMap<UnitId, Kind>,
    /// What was asked and has not ended, by what it is called.
    asked: BTreeSet<String>,
    /// Whatever was done that is no answer, counted.
    pub(super) effects: u64,
    pub(super) in_force: String,
    /// All that were in force; the number of one is its place, from 1 on.
    pub(super) generations: Vec<String>,
    /// Units of which a start runs the program of an upgrade.
    start_new: BTreeSet<UnitId>,
    /// What is published everywhere.
    pub(super) streams: BTreeSet<&'static str>,
    /// Between two reports of a process; a history with many takes long.
    pub(super) reports: Duration,
    /// So many players of a port stay as long as they may.
    pub(super) stay: BTreeMap<UnitId, u32>,
    /// The one of which no player gets anything.
    pub(super) unplayable: Option<&'static str>,
    /// Units that were asked to stop since the step began, and who played there.
    pub(super) stops: Vec<(UnitId, u32)>,
    /// What is on record of ports that leave: until when, how long that was, whether that was consented to.
    departures: BTreeMap<UnitId, (Instant, Duration, bool)>,
    /// Ports that are not where the file in force has them, and whether anybody has said that this may cost their players.
    pub(super) consents: BTreeMap<UnitId, bool>,
    readied_at: BTreeMap<UnitId, Instant>,
    restarts: BTreeMap<Client, Vec<(UnitId, Instant)>>,
    pub(super) trace: bool,
}

impl Fake {
    pub(super) fn new(seed: u64, now: Instant, trace: bool) -> Self {
        Self {
            start: now,
            now,
            random: Random(seed),
            calm: false,
            supervisor: 0,
            due: BTreeMap::new(),
            last: 0,
            processes: BTreeMap::new(),
            living: BTreeSet::new(),
            held: BTreeMap::new(),
            found: BTreeMap::new(),
            owed: BTreeSet::new(),
            answers: Vec::new(),
            told: BTreeMap::new(),
            asked: BTreeSet::new(),
            effects: 0,
            in_force: String::new(),
            generations: Vec::new(),
            start_new: BTreeSet::new(),
            streams: ["live/a"].into(),
            stay: BTreeMap::new(),
            unplayable: None,
            reports: MS * 10_000,
            stops: Vec::new(),
            departures: BTreeMap::new(),
            consents: BTreeMap::new(),
            readied_at: BTreeMap::new(),
            restarts: BTreeMap::new(),
            trace,
        }
    }

    /// Tells one who reproduces a failure what happens.
    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9.3} {}", (self.now - self.start).as_secs_f64(), what());
        }
    }

    fn after(&mut self, wait: Duration, due: Due) {
        self.last += 1;
        self.due.insert((self.now + wait, self.last), due);
    }

    fn tell_after(&mut self, wait: Duration, input: Input) {
        self.after(wait, Due::Tell(self.supervisor, Box::new(input)));
    }

    fn event_after(&mut self, wait: Duration, pid: u32, event: Event) {
        let Some(process) = self.processes.get(&pid) else { return };
        if let Some((instance, _)) = self.held.get(&process.unit).filter(|(_, held)| *held == pid) {
            let (unit, instance) = (process.unit.clone(), *instance);
            self.tell_after(wait, Input::Process { unit, instance, what: What::Event(event) });
        }
    }

    /// The moment of the next thing that happens by itself.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Has the next thing happen, if it is due; gives what the supervisor learns of it.
    pub(super) fn poll(&mut self) -> Option<Input> {
        loop {
            let entry = self.due.first_entry().filter(|entry| entry.key().0 <= self.now)?;
            match entry.remove() {
                Due::Tell(supervisor, input) if supervisor == self.supervisor => {
                    if let Input::Process { unit, what: What::Event(Event::Ready), .. } = &*input {
                        self.readied_at.insert(unit.clone(), self.now);
                    }
                    return Some(*input);
                }
                Due::Tell(..) => {}
                Due::Dies(pid, exit) => self.end(pid, exit),
                Due::Freezes(pid) => self.freeze(pid),
                Due::GetsReady(pid) => self.get_ready(pid),
                Due::Renews(pid) => self.renew_worker(pid),
                Due::GoesBack(pid) => {
                    self.processes.get_mut(&pid).into_iter().for_each(|process| process.is_new = false);
                    self.renew_worker(pid);
                }
                Due::IsLate(pid) if !self.processes[&pid].ready => {
                    let why = "no answer on its control socket within 30 s".into();
                    self.event_after(MS, pid, Event::Frozen { why });
                }
                Due::IsLate(_) => {}
                Due::Report(supervisor, pid, again) if supervisor == self.supervisor => {
                    self.report(pid, again);
                }
                Due::Report(..) => {}
                Due::Look(supervisor, unit) if supervisor == self.supervisor => {
                    let look = self.look_at(&unit);
                    return Some(Input::Looked { unit, look });
                }
                Due::Look(..) => {}
            }
        }
    }

    pub(super) fn alive(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.exit.is_none())
    }

    /// The living process of a unit, which has its lock.
    pub(super) fn holder(&self, unit: &UnitId) -> Option<u32> {
        let mut living = self.living.iter().filter(|pid| self.processes[pid].unit == *unit);
        let pid = living.next()?;
        assert!(living.next().is_none(), "two processes of {unit}");
        Some(*pid)
    }

    pub(super) fn end(&mut self, pid: u32, exit: Exit) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| process.exit.is_none()) else {
            return;
        };
        process.exit = Some(exit);
        self.living.remove(&pid);
        let told = if process.child { exit } else { Exit::Unobserved };
        self.tell(|| format!("pid {pid} ends: {exit}"));
        let wait = self.random.ms(0, 20);
        self.event_after(wait, pid, Event::Exited(told));
    }

    pub(super) fn freeze(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid).filter(|process| process.exit.is_none()) {
            process.frozen = true;
            self.tell(|| format!("pid {pid} freezes"));
            self.event_after(
                5 * 1000 * MS,
                pid,
                Event::Frozen { why: "frozen: no heartbeat for 3 s".into() },
            );
        }
    }

    fn get_ready(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid).filter(|it| it.exit.is_none() && !it.frozen) {
            process.ready = true;
            self.tell_worker(pid);
            self.event_after(MS, pid, Event::Ready);
            self.after(self.random_wait(), Due::Report(self.supervisor, pid, true));
        }
    }

    fn renew_worker(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid).filter(|it| it.exit.is_none() && !it.frozen) else {
            return;
        };
        process.generation += 1;
        let unit = process.unit.clone();
        self.readied_at.insert(unit, self.now);
        self.tell_worker(pid);
        self.after(MS, Due::Report(self.supervisor, pid, false));
    }

    fn tell_worker(&mut self, pid: u32) {
        let Some(Process { unit, generation, .. }) = self.processes.get(&pid).cloned() else { return };
        if let Some((instance, _)) = self.held.get(&unit).filter(|(_, held)| *held == pid) {
            let cause = (generation > 0).then(|| "restart".to_owned());
            let worker = Worker {
                pid: pid + 100_000,
                generation,
                renewed: generation,
                cause,
                is_cold: false,
                lost: 0,
                version: "1".to_owned(),
                age: Duration::ZERO,
            };
            let (instance, what) = (*instance, What::Worker(worker));
            self.tell_after(Duration::ZERO, Input::Process { unit, instance, what });
        }
    }

    fn random_wait(&self) -> Duration {
        // From the pid rather than from chance: a report is no decision.
        MS * u32::try_from(self.last % 900).unwrap()
    }

    fn report(&mut self, pid: u32, again: bool) {
        let Some(process) = self.processes.get(&pid).filter(|it| it.exit.is_none() && !it.frozen) else {
            return;
        };
        let unit = process.unit.clone();
        let Some((instance, _)) = self.held.get(&unit).filter(|(_, held)| *held == pid) else { return };
        let instance = *instance;
        let stream = |name: &&str| cluster::stats::StreamStats {
            stream: (*name).to_owned(),
            publishing: true,
            last_frame_age_ms: Some(10),
            keyframe_age_ms: Some(10),
            ..Default::default()
        };
        let streams = self.streams.iter().map(stream).collect();
        self.players_come_and_go(pid);
        let players = self.processes[&pid].players;
        let publishers = self.encoders(pid);
        let process = ProcessStats { players, publishers, ..ProcessStats::default() };
        let report = Report { at: self.now, process, streams };
        self.tell_after(Duration::ZERO, Input::Process { unit, instance, what: What::Report(report) });
        if again {
            self.after(self.reports, Due::Report(self.supervisor, pid, true));
        }
    }

    fn players_come_and_go(&mut self, pid: u32) {
        // From the count of what has happened rather than from chance: they are no decision.
        let last = u32::try_from(self.last % 12).unwrap();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let drain = match &process.spec {
            Some(ProcessSpec::Worker(spec)) => spec.drain,
            Some(ProcessSpec::Encoder(_)) | None => return,
        };
        process.players = match drain {
            Drain::No | Drain::Refuse if self.stay.contains_key(&process.unit) => self.stay[&process.unit],
            Drain::No => last % 3,
            Drain::Refuse => process.players.saturating_sub(u32::from(last == 0)),
            Drain::Close => 0,
        };
    }

    /// How many encoders publish to a process: that of the cluster, where it does.
    fn encoders(&self, pid: u32) -> u32 {
        let Some(port) = self.processes[&pid].spec.as_ref().and_then(port_of) else { return 0 };
        let encoder = self.held.get(&UnitId::encoder()).map(|(_, pid)| &self.processes[pid]);
        let encoder = encoder.filter(|encoder| encoder.exit.is_none() && encoder.ready);
        let url = encoder.and_then(|encoder| match encoder.spec.as_ref()? {
            ProcessSpec::Encoder(spec) => Some(spec.url.clone()),
            ProcessSpec::Worker(_) => None,
        });
        u32::from(url.is_some_and(|url| url == port.local_url("live/a")))
    }

    /// Nobody has consented yet to what a file in force costs, or somebody has.
    fn note_consent(&mut self, text: &str, yes: bool) {
        let Ok(cluster) = parse(text) else { return };
        // Of each unit the newest process; one that has ended may be followed by another.
        let known = self.processes.values().filter(|process| process.listen().is_some());
        let known: BTreeMap<UnitId, Option<SocketAddr>> =
            known.map(|process| (process.unit.clone(), process.listen())).collect();
        for (unit, listen) in known {
            if cluster.ports().any(|port| port.id() == unit && Some(port.listen_addr()) == listen) {
                self.consents.remove(&unit);
            } else {
                let before = self.consents.get(&unit).copied().unwrap_or_default();
                self.consents.insert(unit, yes || before);
            }
        }
    }

    fn look_at(&mut self, unit: &UnitId) -> Look {
        self.found.remove(unit);
        let Some(pid) = self.holder(unit) else { return Look::Nothing };
        let process = &self.processes[&pid];
        if !process.proven {
            return Look::Unknown { why: "it does not have the token".into() };
        }
        self.found.insert(unit.clone(), pid);
        Look::Process { pid, serving: pid, silent: process.frozen, age: MS * 5000 }
    }

    /// From here on nothing goes wrong.
    pub(super) fn be_calm(&mut self) {
        self.calm = true;
        let mut strangers = Vec::new();
        for (pid, process) in &mut self.processes {
            process.manners = Manners::Asked;
            if !process.proven {
                strangers.push(*pid);
            }
        }
        strangers.into_iter().for_each(|pid| self.end(pid, Exit::Code(0)));
    }

    /// A supervisor is gone; its processes are not.
    pub(super) fn lose_supervisor(&mut self) {
        self.supervisor += 1;
        self.held.clear();
        self.found.clear();
        self.owed.clear();
        self.told.clear();
        self.start_new.clear();
        self.asked.clear();
        for process in self.processes.values_mut() {
            process.child = false;
        }
    }

    /// What a new supervisor finds.
    pub(super) fn find_all(&mut self) -> BTreeMap<UnitId, Look> {
        let units: BTreeSet<UnitId> = self.processes.values().map(|process| process.unit.clone()).collect();
        let looks = units.into_iter().map(|unit| {
            let look = self.look_at(&unit);
            (unit, look)
        });
        looks.filter(|(_, look)| *look != Look::Nothing).collect()
    }

    /// What is there beside what a file asks for.
    pub(super) fn leftover(
        &self,
        (cluster, dirs): (&Cluster, &ClusterDirs),
        found: &BTreeMap<UnitId, Look>,
    ) -> Leftover {
        let all: BTreeMap<UnitId, ProcessSpec> =
            specs(cluster, dirs).into_iter().map(|(spec, _)| (spec.id().clone(), spec)).collect();
        let mut left = Leftover::default();
        for (unit, look) in found {
            let is_process = matches!(look, Look::Process { .. });
            let Some(spec) = self.holder(unit).and_then(|pid| self.processes[&pid].spec.clone()) else {
                continue;
            };
            match all.get(unit) {
                None => left.surplus.push((spec.clone(), port_of(&spec))),
                Some(wanted) if listen(wanted) != listen(&spec) => {
                    left.misplaced.push((unit.clone(), listen(&spec).unwrap()));
                }
                Some(wanted @ ProcessSpec::Encoder(_)) => {
                    left.is_encoder_old |= is_process && *wanted != spec
                }
                Some(_) => {}
            }
            if let Some((until, limit, consent)) = self.departures.get(unit).copied() {
                let left_over = until.saturating_duration_since(self.now);
                left.on_record.insert(unit.clone(), OnRecord { left: left_over, limit, consent });
            }
        }
        left
    }

    /// A file is in force; its number.
    pub(super) fn bring_into_force(&mut self, text: &str, yes: bool) -> u64 {
        self.note_consent(text, yes);
        if self.generations.last().is_none_or(|last| last != text) {
            self.generations.push(text.to_owned());
        }
        text.clone_into(&mut self.in_force);
        self.generations.len() as u64
    }

    /// A process that is not the cluster's gets hold of a unit's lock, or one of which the record is lost.
    pub(super) fn add_stranger(&mut self, unit: &UnitId) {
        if self.holder(unit).is_none() && !self.held.contains_key(unit) {
            let pid = self.new_process(unit, Manners::Killed, false);
            let stays = self.random.ms(100, 30_000);
            self.after(stays, Due::Dies(pid, Exit::Code(0)));
        }
    }

    fn new_process(&mut self, unit: &UnitId, manners: Manners, ours: bool) -> u32 {
        let pid = 1000 + u32::try_from(self.processes.len()).unwrap();
        let process = Process {
            unit: unit.clone(),
            exit: None,
            proven: ours,
            frozen: false,
            ready: false,
            generation: 0,
            is_new: ours && self.start_new.contains(unit),
            manners,
            child: ours,
            spec: None,
            players: 0,
        };
        self.processes.insert(pid, process);
        self.living.insert(pid);
        pid
    }

    /// The process that is held for a unit, which alone may be signalled.
    fn held_process(&mut self, unit: &UnitId, what: &str) -> (u32, Process) {
        self.effects += 1;
        let Some((_, pid)) = self.held.get(unit).copied() else {
            panic!("{what} for {unit}, which has no process")
        };
        let process = self.processes[&pid].clone();
        assert!(process.proven, "{what} for pid {pid}, which is not proved to be {unit}");
        (pid, process)
    }

    fn has_ended_after(&mut self, wait: Duration, pid: u32, exit: Exit) {
        self.after(wait, Due::Dies(pid, exit));
    }

    fn answer_after(&mut self, wait: Duration, ticket: Ticket, answer: Answer) {
        self.effects += 1;
        self.tell_after(wait, Input::Answered { ticket, answer });
    }
}

impl Process {
    /// Where it listens.
    fn listen(&self) -> Option<SocketAddr> {
        listen(self.spec.as_ref()?)
    }
}

fn listen(spec: &ProcessSpec) -> Option<SocketAddr> {
    match spec {
        ProcessSpec::Worker(spec) => Some(spec.listen),
        ProcessSpec::Encoder(_) => None,
    }
}

fn port_of(spec: &ProcessSpec) -> Option<Port> {
    let ProcessSpec::Worker(spec) = spec else { return None };
    let host = Host { name: spec.host.clone(), address: spec.host_address() };
    let (port, listen) = (spec.listen.port(), spec.listen.ip());
    Some(Port { role: spec.role, host, port, listen, options: spec.options.clone() })
}

/// What stands in place of a cluster file: `1935,1936` are edge ports, `1936:5` one with another `max_connections`, `1936@9` one that
/// listens at another address; `o4` puts the origin on another host, `e0` is without an encoder, `e1` with another one.
pub(super) fn parse(text: &str) -> Result<Cluster, String> {
    let wrong = || format!("{text} is wrong");
    let port = |role, last: u8, number| {
        let address = [127, 0, 0, last].into();
        let host = Host { name: format!("127.0.0.{last}"), address };
        Port { role, host, port: number, listen: address, options: WorkerOptions::default() }
    };
    let mut cluster = Cluster {
        name: "live".into(),
        origins: vec![port(Role::Origin, 5, 1935)],
        edges: Vec::new(),
        elsewhere: Vec::new(),
        forward: Vec::new(),
        ssh: BTreeMap::new(),
        encoder: Some(cluster::Encoder { source: cluster::EncoderSource::TestCard, stream: "live/a".into() }),
    };
    for word in text.split(',') {
        match word.split_at_checked(1) {
            Some(("o", host)) => {
                cluster.origins = vec![port(Role::Origin, host.parse().map_err(|_| wrong())?, 1935)]
            }
            Some(("e", "0")) => cluster.encoder = None,
            Some(("e", _)) => {
                let source = cluster::EncoderSource::File("/clip.flv".into());
                cluster.encoder = Some(cluster::Encoder { source, stream: "live/a".into() });
            }
            _ => {
                let (place, most) =
                    word.split_once(':').map_or((word, None), |(place, most)| (place, Some(most)));
                let (number, last) =
                    place.split_once('@').map_or((place, None), |(number, last)| (number, Some(last)));
                let mut edge = port(Role::Edge, 6, number.parse().map_err(|_| wrong())?);
                if let Some(most) = most {
                    edge.options.max_connections = most.parse().map_err(|_| wrong())?;
                }
                if let Some(last) = last {
                    edge.listen = [127, 0, 1, last.parse().map_err(|_| wrong())?].into();
                }
                cluster.edges.push(edge);
            }
        }
    }
    Ok(cluster)
}

impl Kernel for Fake {
    fn random(&mut self) -> f64 {
        self.random.below(1000) as f64 / 1000.0
    }

    fn spawn(
        &mut self,
        spec: &ProcessSpec,
        _: Option<&Port>,
        instance: Instance,
    ) -> Result<(u32, Instant), Event> {
        self.effects += 1;
        let unit = spec.id();
        if let Some((_, pid)) = self.held.get(unit) {
            panic!("{unit} is started while pid {pid} is its process");
        }
        if self.holder(unit).is_some() {
            return Err(Event::Unproven { why: "a process that it left behind holds its lock".into() });
        }
        let luck = if self.calm { 99 } else { self.random.below(100) };
        if luck < 6 {
            return Err(Event::SpawnFailed { why: "no room".into() });
        }
        let manners = match self.random.below(10) {
            0 => Manners::Terminated,
            1 => Manners::Killed,
            2 => Manners::KilledAfter(3),
            _ => Manners::Asked,
        };
        let pid = self.new_process(unit, if self.calm { Manners::Asked } else { manners }, true);
        self.processes.get_mut(&pid).unwrap().spec = Some(spec.clone());
        self.held.insert(unit.clone(), (instance, pid));
        self.tell(|| format!("pid {pid} is {unit}, {manners:?}"));
        let exit = match self.random.below(8) {
            0 => Exit::Signal(9),
            1 => Exit::Signal(11),
            _ => Exit::Code(self.random.pick(&[0, 1, 2, 64, 70, 71, 75, 78, 101, 255])),
        };
        self.after(MS * 30_000, Due::IsLate(pid));
        let (at_once, ready) = (self.random.ms(0, 3000), self.random.ms(20, 600));
        match luck {
            6..18 => self.has_ended_after(at_once, pid, exit),
            18..22 => {}
            22..28 => {
                let late = self.random.ms(5_000, 45_000);
                self.after(late, Due::GetsReady(pid));
            }
            _ => self.after(ready, Due::GetsReady(pid)),
        }
        let later = self.random.ms(1000, 120_000);
        match luck {
            28..45 => self.has_ended_after(later, pid, exit),
            45..52 => self.after(later, Due::Freezes(pid)),
            _ => {}
        }
        Ok((pid, self.now))
    }

    fn adopt(&mut self, unit: &UnitId, _: Option<&Port>, instance: Instance) {
        self.effects += 1;
        let pid = self.found.remove(unit).expect("adopted without a look that found it");
        assert!(self.held.insert(unit.clone(), (instance, pid)).is_none(), "{unit} has a process already");
        let process = self.processes[&pid].clone();
        assert!(process.proven, "adopted unproven");
        match process {
            Process { exit: Some(_), .. } => self.event_after(MS, pid, Event::Exited(Exit::Unobserved)),
            Process { frozen: true, .. } => self.freeze(pid),
            Process { .. } => {
                self.tell_worker(pid);
                self.after(MS * 200, Due::Report(self.supervisor, pid, true));
            }
        }
    }

    fn ask_stop(&mut self, unit: &UnitId) {
        let (pid, process) = self.held_process(unit, "stop");
        self.stops.push((unit.clone(), if process.exit.is_none() { process.players } else { 0 }));
        let wait = self.random.ms(1, 400);
        match (process.frozen || process.exit.is_some(), process.manners) {
            (false, Manners::Asked) => self.has_ended_after(wait, pid, Exit::Code(0)),
            _ if self.random.percent(50) => self.event_after(wait, pid, Event::AskFailed),
            _ => {}
        }
    }

    fn terminate(&mut self, unit: &UnitId) {
        let (pid, process) = self.held_process(unit, "SIGTERM");
        if !process.frozen && matches!(process.manners, Manners::Asked | Manners::Terminated) {
            let wait = self.random.ms(1, 400);
            self.has_ended_after(wait, pid, Exit::Signal(15));
        }
    }

    fn kill(&mut self, unit: &UnitId) {
        let (pid, process) = self.held_process(unit, "SIGKILL");
        if let Manners::KilledAfter(more @ 1..) = process.manners {
            self.processes.get_mut(&pid).unwrap().manners = Manners::KilledAfter(more - 1);
        } else {
            let wait = self.random.ms(0, 50);
            self.has_ended_after(wait, pid, Exit::Signal(9));
        }
    }

    fn forget(&mut self, unit: &UnitId) {
        let (_, pid) = self.held.remove(unit).expect("forgotten twice");
        assert!(!self.alive(pid), "{unit} is forgotten while pid {pid} lives");
    }

    fn refresh(&mut self, unit: &UnitId) {
        if let Some((_, pid)) = self.held.get(unit).copied()
            && self.processes[&pid].ready
        {
            let wait = self.random.ms(1, 400);
            self.after(wait, Due::Report(self.supervisor, pid, false));
        }
    }

    fn look(&mut self, unit: &UnitId) {
        let wait = self.random.ms(1, 1500);
        self.after(wait, Due::Look(self.supervisor, unit.clone()));
    }

    fn close_port(&mut self, _: &UnitId) {}

    fn note_departure(&mut self, unit: &UnitId, departure: Option<OnRecord>) {
        self.effects += 1;
        match departure {
            // The disk may be full.
            Some(_) if !self.calm && self.random.percent(5) => {}
            Some(OnRecord { left, limit, consent }) => {
                self.departures.insert(unit.clone(), (self.now + left, limit, consent));
            }
            None => drop(self.departures.remove(unit)),
        }
    }

    fn remove(&mut self, unit: &UnitId, _: bool) {
        self.effects += 1;
        self.departures.remove(unit);
        assert!(!self.held.contains_key(unit), "{unit} is removed while it has a process");
    }

    fn parse(&mut self, ticket: Ticket, file: &Apply) {
        let wait = self.random.ms(1, 9000);
        self.answer_after(
            wait,
            ticket,
            Answer::Parsed(parse(&file.text).map_err(|why| Error::new(Code::Invalid, why))),
        );
    }

    fn prepare(&mut self, _: &Cluster, added: &[&Port]) -> Result<(), String> {
        self.effects += 1;
        // What is bound cannot be bound again.
        for port in added {
            let bound = self.held.keys().filter(|unit| **unit != port.id());
            let bound = bound.filter_map(|unit| self.processes[&self.held[unit].1].listen());
            let mut taken = bound.filter(|listen| listen.port() == port.port && listen.ip() == port.listen);
            assert_eq!(taken.next(), None, "{} cannot be bound", port.id());
        }
        if !self.calm && self.random.percent(10) { Err("the port is taken".into()) } else { Ok(()) }
    }

    fn write_config(&mut self, _: &ProcessSpec) -> Result<(), String> {
        self.effects += 1;
        if !self.calm && self.random.percent(3) { Err("no room".into()) } else { Ok(()) }
    }

    fn put_in_force(&mut self, file: &Apply, _: Option<By>, what: String) -> Result<u64, String> {
        self.effects += 1;
        if !self.calm && self.random.percent(3) {
            return Err("no room".into());
        }
        self.tell(|| format!("in force: {}: {what}", file.text));
        Ok(self.bring_into_force(&file.text, file.yes))
    }

    fn configure(&mut self, ticket: Ticket, spec: &WorkerSpec) {
        let answers = self.held.get(&spec.id).is_some_and(|(_, pid)| {
            let process = &self.processes[pid];
            process.exit.is_none() && !process.frozen
        });
        let fails = !answers || !self.calm && self.random.percent(15);
        let (soon, late) = (self.random.ms(1, 50), self.random.ms(4_900, 5_000));
        let wait = if answers { soon } else { late };
        // One that does not say so may have taken it.
        if answers && (!fails || self.random.percent(50)) {
            let (_, pid) = self.held[&spec.id];
            self.players_come_and_go(pid);
            let consented = self.consents.get(&spec.id) == Some(&true);
            let players = self.processes[&pid].players;
            assert!(
                spec.drain != Drain::Close || players == 0 || consented,
                "{}: {players} players are closed, and nobody has said so",
                spec.id
            );
            self.processes.get_mut(&pid).unwrap().spec = Some(ProcessSpec::Worker(spec.clone()));
        }
        let told = if fails { Err("no answer".into()) } else { Ok(()) };
        self.answer_after(wait, ticket, Answer::Configured(told));
    }

    fn examine(&mut self, ticket: Ticket, program: &Program, units: &[UnitId]) {
        assert_ne!(*program, Program::Before);
        let examined = match if self.calm { 99 } else { self.random.below(100) } {
            0..5 => Err("it cannot be started".to_owned()),
            5..15 => Ok(Examined { unread: units.to_vec(), ..Examined::default() }),
            _ => Ok(Examined::default()),
        };
        let wait = self.random.ms(1, 9000);
        self.answer_after(wait, ticket, Answer::Examined(examined));
    }

    fn renew(&mut self, ticket: Ticket, spec: &WorkerSpec, program: &Program) {
        let (pid, process) = self.held_process(&spec.id, "a renewal");
        let hears = process.exit.is_none() && !process.frozen;
        let (soon, late, next) =
            (self.random.ms(1, 50), self.random.ms(4_900, 5_000), self.random.ms(60, 300));
        let luck = if self.calm { 99 } else { self.random.below(100) };
        let told = match luck {
            _ if !hears => Err(Error::new(Code::Failed, "no answer")),
            0..8 => Err(Error::new(Code::Unsupported, "it is older")),
            8..14 => Err(Error::new(Code::Failed, "it cannot")),
            14..20 => {
                self.has_ended_after(next, pid, Exit::Code(70));
                Ok(())
            }
            // No other comes, and that is all.
            20..24 => Ok(()),
            _ => {
                // What a start runs is the program before, as long as no other is installed.
                self.processes.get_mut(&pid).unwrap().is_new = matches!(program, Program::At(_));
                self.after(next, Due::Renews(pid));
                if luck < 30 && matches!(program, Program::At(_)) {
                    let later = next + self.random.ms(1, 10_000);
                    self.after(later, Due::GoesBack(pid));
                }
                Ok(())
            }
        };
        self.answer_after(if hears { soon } else { late }, ticket, Answer::Renewed(told));
    }

    fn is_running(&mut self, unit: &UnitId, program: &Program) -> bool {
        let is_new = matches!(program, Program::At(_));
        self.held.get(unit).is_some_and(|(_, pid)| self.processes[pid].is_new == is_new)
    }

    fn start_next(&mut self, unit: &UnitId, program: &Program) {
        if matches!(program, Program::At(_)) {
            self.start_new.insert(unit.clone());
        } else {
            self.start_new.remove(unit);
        }
    }

    fn is_in_place(&mut self, _: &Path) -> bool {
        self.calm || !self.random.percent(5)
    }

    fn program(&self, _: &UnitId) -> Option<cluster::status::Program> {
        None
    }

    fn next_program(&self) -> (std::path::PathBuf, bool) {
        (std::path::PathBuf::from("/srsctl"), true)
    }

    fn last_words(&self, _: &UnitId) -> Option<String> {
        None
    }

    fn install(&mut self, _: &Path) {
        self.effects += 1;
        self.processes.values_mut().for_each(|process| process.is_new = false);
    }

    fn play(&mut self, ticket: Ticket, url: &str, limit: Duration) {
        assert!(limit <= 10_000 * MS, "a play without an end");
        assert!(limit > 100 * MS, "a play that has no time");
        let is_playable = |stream: &&&str| url.ends_with(**stream) && self.unplayable != Some(**stream);
        if self.streams.iter().find(is_playable).is_none() {
            let unplayed = Unplayed { why: "nothing came".into(), is_full: false };
            self.answer_after(limit, ticket, Answer::Played(Err(unplayed)));
            return;
        }
        let plays = self.calm || self.random.percent(70);
        let wait = self.random.ms(1, 2000).min(limit);
        let is_full = self.random.percent(30);
        let unplayed = Unplayed { why: "no keyframe".into(), is_full };
        self.answer_after(wait, ticket, Answer::Played(if plays { Ok(()) } else { Err(unplayed) }));
    }

    fn record(&mut self, event: Happening) {
        self.tell(|| format!("{:?} {:?}: {}", event.kind, event.unit, event.text));
        match (event.unit, event.kind) {
            // They do not tell how it is.
            (
                Some(_),
                Kind::Draining | Kind::Drained | Kind::Kept | Kind::Configured | Kind::NotConfigured,
            ) => {}
            (Some(unit), kind) => drop(self.told.insert(unit, kind)),
            (None, Kind::Asked) => drop(self.asked.insert(event.text)),
            (None, Kind::Done | Kind::Failed) => {
                let name = event.text.split(": ").next().unwrap().to_owned();
                assert!(name == "start" || self.asked.remove(&name), "{name} ends, and was not asked");
            }
            (None, _) => {}
        }
    }

    fn say(&mut self, client: Option<Client>, line: String) {
        self.tell(|| format!("client {client:?} is told: {line}"));
        if let (Some(client), Some(rest)) = (client, line.strip_prefix("restarting ")) {
            let id = rest.split(':').next().unwrap();
            let unit: UnitId = serde_json::from_value(serde_json::Value::String(id.into())).unwrap();
            let before = self.restarts.entry(client).or_default();
            // One that cannot make place is restarted in the other way.
            for (earlier, at) in before.iter().filter(|(earlier, _)| *earlier != unit) {
                let again = self.readied_at.get(earlier).is_some_and(|ready| ready >= at);
                assert!(again, "{unit} is restarted before {earlier} is ready again");
            }
            before.push((unit, self.now));
        }
    }

    fn report(&mut self, client: Option<Client>, upgraded: Upgraded) {
        self.tell(|| format!("client {client:?} is told: {upgraded:?}"));
        for port in &upgraded.ports {
            let held = self.held.get(&port.unit).map(|(_, pid)| &self.processes[pid]);
            let runs_new = held.is_some_and(|it| it.is_new && it.exit.is_none());
            // Of one that is installed, none is new any more; one that was not tried may have it from a supervisor that was killed.
            let is_told = port.why.is_some() || port.result == UpgradeResult::NotTried;
            assert!(!runs_new || is_told, "{} runs the new program, and that is not told", port.unit);
        }
    }

    fn finish(&mut self, client: Option<Client>, outcome: Result<(), Error>) {
        self.tell(|| format!("client {client:?} is answered: {outcome:?}"));
        if let Some(client) = client {
            assert!(self.owed.remove(&client), "client {client} is answered, and is owed nothing");
            self.answers.push((client, outcome));
        }
    }

    fn show(&mut self, client: Client, _: Status) {
        assert!(self.owed.remove(&client), "client {client} is shown a status, and is owed nothing");
    }

    fn show_plan(&mut self, client: Client, plan: Result<HostPart, Error>) {
        assert!(self.owed.remove(&client), "client {client} is shown a plan, and is owed nothing");
        self.tell(|| format!("client {client} is shown {plan:?}"));
    }

    fn take_down(&mut self) {}

    fn close(&mut self) {}

    fn remove_run(&mut self) -> Result<(), String> {
        assert!(self.held.is_empty(), "the run directory is removed while processes live");
        Ok(())
    }
}
