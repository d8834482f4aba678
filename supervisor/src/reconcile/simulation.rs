//! Thousands of histories of a supervisor, each from a seed: processes that do not start, die, freeze and do not hear, commands and signals at
//! any time, supervisors that are killed and followed by another. The reconciler is the real one, the kernel is `fake::Fake`. After each
//! step it is checked that
//!
//! * a unit that is wanted has exactly one process, or a reason, and a moment when it is tried again;
//! * no unit has two processes, and nothing is signalled that is not proved to be ours (in the fake); siblings
//!   are not restarted together, on their own or on request, and stop in order;
//! * a refusal changed nothing, and what is asked gets exactly one answer;
//! * a change stops no port that both files have, and at its end all have the values of one file, whole, and have been told them;
//! * no player of a port that leaves is cut unless somebody has said so; what the file in force has is wanted, and nothing else is;
//! * an upgrade that fails leaves no port with the new program, or tells of it;
//! * the newest event of a unit tells its state, and what is asked begins and ends with an event.
//!
//! `SRSCTL_SEEDS=100000` runs more of them, `SRSCTL_SEED=N` begins at N; a single seed (`SRSCTL_SEEDS=1`) is told step by step.

mod cases;
mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::events::{By, Kind};
use cluster::{Cluster, Port, ProcessSpec, Role, UnitId};
use control::Code;
use control::api::{Apply, Restart, StartupEvent, Upgrade};

use super::departure::Then;
use super::kernel::{Client, Command, InForce, Input};
use super::queue::Runs;
use super::reconciler::{End, Reconciler, specs};
use crate::host::dirs::{ClusterDirs, StateRoots};
use crate::machine::backoff::{LONGEST, Spacing};
use crate::machine::exit::Exit;
use crate::machine::state::{State, Wanted};
use fake::{Fake, parse};

/// Histories of an ordinary test run: half a minute.
const SEEDS: u64 = 2000;
/// How long things go wrong in one history.
const STORMY: Duration = Duration::from_secs(120);
/// After so long without trouble all is well, and everybody has an answer: two commands at their limits.
const CALM: Duration = Duration::from_secs(400);
/// The last `down` takes no longer.
const DOWN: Duration = Duration::from_secs(100);
/// All steps of a stop: what does not end by then does not hold up the next role.
const STOP_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_wanted_unit_has_exactly_one_process_or_a_reason_through_thousands_of_histories() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (first, count) = (number("SRSCTL_SEED").unwrap_or(0), number("SRSCTL_SEEDS").unwrap_or(SEEDS));
    for seed in first..first + count {
        let told = std::panic::catch_unwind(|| History::run(seed, count == 1));
        assert!(told.is_ok(), "seed {seed}; see it step by step: SRSCTL_SEED={seed} SRSCTL_SEEDS=1");
    }
}

/// The units that stay, and those that go by themselves.
fn staying(supervisor: &Reconciler) -> (Vec<UnitId>, Vec<UnitId>) {
    let (leave, stay): (Vec<_>, Vec<_>) = supervisor.members.iter().partition(|it| it.departure.is_some());
    let ids = |members: Vec<&super::member::Member>| members.into_iter().map(|it| it.id.clone()).collect();
    (ids(stay), ids(leave))
}

/// What one supervisor is watched by.
struct History {
    fake: Fake,
    dirs: ClusterDirs,
    supervisor: Option<Reconciler>,
    last_client: Client,
    /// Of this supervisor: automatic restarts counted of each unit, and the newest.
    restarts: BTreeMap<UnitId, u32>,
    last_restart: Option<Instant>,
    /// When it began to end.
    end_began: Option<Instant>,
    /// What it has told of its start.
    ready: BTreeSet<UnitId>,
    is_complete: bool,
    /// What was there when a change was asked for.
    asked: BTreeMap<Client, (Vec<UnitId>, Vec<UnitId>, String)>,
    /// The clusters before and behind the newest change.
    change: Option<(Cluster, Cluster)>,
}

impl History {
    fn new(seed: u64, trace: bool) -> Self {
        let roots = StateRoots::resolve(Some(Path::new("/nowhere"))).unwrap();
        Self {
            fake: Fake::new(seed, Instant::now(), trace),
            dirs: roots.cluster("live"),
            supervisor: None,
            last_client: 0,
            restarts: BTreeMap::new(),
            last_restart: None,
            end_began: None,
            ready: BTreeSet::new(),
            is_complete: false,
            asked: BTreeMap::new(),
            change: None,
        }
    }

    fn run(seed: u64, trace: bool) {
        let mut it = Self::new(seed, trace);
        let edges = 1 + it.fake.random.below(4);
        let text: Vec<String> = (0..edges).map(|edge| (1935 + edge).to_string()).collect();
        it.start(&text.join(","));
        let end = it.fake.now + STORMY;
        while it.fake.now < end {
            let wait = it.fake.random.ms(1, 12_000);
            it.pass(wait);
            it.disturb();
        }
        it.be_calm();
    }

    /// Lets so much time pass.
    fn pass(&mut self, wait: Duration) {
        let end = self.fake.now + wait;
        loop {
            let due = self.supervisor.as_ref().map(Reconciler::next_due);
            let next = due.into_iter().chain(self.fake.next_due()).min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.fake.now = next.max(self.fake.now);
            let input = self.fake.poll();
            self.step(input.unwrap_or(Input::Time));
        }
        self.fake.now = end;
    }

    /// Has the supervisor, if there is one, take one thing in; and looks at what came of it.
    fn step(&mut self, input: Input) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        self.fake.tell(|| format!("{input:?}").chars().take(200).collect());
        let now = self.fake.now;
        supervisor.handle(now, input, &mut self.fake);
        self.look(&mut supervisor);
        match supervisor.end() {
            None => {
                assert!(supervisor.next_due() > now, "it is due at once, again and again");
                self.supervisor = Some(supervisor);
            }
            Some((end, is_started)) => self.ended(&supervisor, &end.clone(), is_started),
        }
    }

    fn start(&mut self, text: &str) {
        let found = self.fake.find_all();
        let before = parse(&self.fake.in_force).ok().filter(|_| self.fake.in_force != text);
        let before = before.map(|cluster| InForce {
            file: Apply { path: "/before".into(), text: self.fake.in_force.clone(), ..Apply::default() },
            cluster,
        });
        let cluster = parse(text).unwrap();
        let left = self.fake.leftover((&cluster, &self.dirs), &found);
        let generation = self.fake.bring_into_force(text, false);
        let files = (cluster, PathBuf::from("/file"), self.dirs.clone(), generation);
        self.fake.tell(|| format!("a supervisor starts with {text}, finds {found:?}"));
        self.restarts.clear();
        self.ready.clear();
        (self.last_restart, self.end_began, self.is_complete) = (None, None, false);
        let before = before.filter(|_| !found.is_empty());
        let mut supervisor = Reconciler::start(self.fake.now, files, before, (found, left), &mut self.fake);
        self.look(&mut supervisor);
        self.supervisor = Some(supervisor);
    }

    /// The file with which the next supervisor may start: the one in force, or one with one more port.
    fn next_file(&mut self) -> String {
        let mut text = self.fake.in_force.clone();
        if !self.fake.calm && self.fake.random.percent(20) {
            let port = 1935 + u16::try_from(self.fake.random.below(6)).unwrap();
            if !parse(&text).unwrap().edges.iter().any(|edge| edge.port == port) {
                text = format!("{text},{port}");
            }
        }
        text
    }

    /// One thing goes wrong, or is asked.
    fn disturb(&mut self) {
        if self.supervisor.is_none() {
            let text = self.next_file();
            self.start(&text);
            return;
        }
        let mut members = self.supervisor.iter().flat_map(|it| &it.members);
        if members.any(|it| it.departure.is_some()) && self.fake.random.percent(20) {
            return self.kill_supervisor();
        }
        match self.fake.random.below(100) {
            0..15 => self.with_process(|fake, pid| {
                let exit =
                    fake.random.pick(&[Exit::Signal(9), Exit::Signal(11), Exit::Code(78), Exit::Code(0)]);
                fake.end(pid, exit);
            }),
            // All at once, by one cause.
            15..18 => {
                let all: Vec<u32> = self.fake.held.values().map(|(_, pid)| *pid).collect();
                all.into_iter().for_each(|pid| self.fake.end(pid, Exit::Signal(9)));
            }
            18..25 => self.with_process(Fake::freeze),
            25..30 => self.ask(Command::Status),
            30..33 => {
                let text = self.fake.in_force.clone();
                self.ask(Command::Plan(
                    parse(&format!("{text},1950")).map(Box::new).map_err(|_| unreachable!()),
                ));
            }
            33..55 => self.apply(),
            55..60 => {
                let canary = usize::try_from(self.fake.random.below(3)).unwrap();
                let yes = self.fake.random.percent(50);
                self.ask(Command::Upgrade(Upgrade { program: "/new".into(), canary, yes }));
            }
            60..78 => {
                let role = self.fake.random.pick(&[Role::Edge, Role::Edge, Role::Origin, Role::Encoder]);
                let port = self.fake.random.percent(30).then_some(1936);
                let (cold, yes) = (self.fake.random.percent(30), self.fake.random.percent(50));
                self.ask(Command::Restart(Restart { role, port, host: None, cold, yes }));
            }
            78..80 => self.ask(Command::Down),
            80..82 => self.step(Input::Stop),
            82..84 => self.step(Input::Leave),
            84..90 => {
                self.kill_supervisor();
                // What lived on may die unseen, and a stranger may come.
                self.with_living(20, |fake, pid| fake.end(pid, Exit::Signal(9)));
                self.with_living(20, |fake, pid| {
                    fake.end(pid, Exit::Signal(9));
                    let unit = fake.processes[&pid].unit.clone();
                    fake.add_stranger(&unit);
                });
                // The record of one is lost.
                self.with_living(20, |fake, pid| fake.processes.get_mut(&pid).unwrap().proven = false);
            }
            // A stranger gets hold of the lock of a unit that has no process.
            90..96 => {
                let members = self.supervisor.iter().flat_map(|it| &it.members);
                let units: Vec<UnitId> = members.map(|member| member.id.clone()).collect();
                let place = usize::try_from(self.fake.random.below(units.len() as u64)).unwrap();
                self.fake.add_stranger(&units[place]);
            }
            _ => self.ask(Command::Status),
        }
    }

    fn kill_supervisor(&mut self) {
        self.fake.tell(|| "the supervisor is killed".to_owned());
        self.supervisor = None;
        self.fake.lose_supervisor();
        self.asked.clear();
    }

    fn with_process(&mut self, act: impl FnOnce(&mut Fake, u32)) {
        let all: Vec<u32> = self.fake.held.values().map(|(_, pid)| *pid).collect();
        if !all.is_empty() {
            let pid = self.fake.random.pick(&all);
            act(&mut self.fake, pid);
        }
    }

    fn with_living(&mut self, percent: u64, act: impl FnOnce(&mut Fake, u32)) {
        let living = self.fake.processes.iter().filter(|(_, process)| process.exit.is_none());
        let living: Vec<u32> = living.map(|(pid, _)| *pid).collect();
        if self.fake.random.percent(percent) && !living.is_empty() {
            let pid = self.fake.random.pick(&living);
            act(&mut self.fake, pid);
        }
    }

    fn apply(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        let (generation, in_force) = (supervisor.generation, self.fake.in_force.clone());
        let mut words: Vec<String> = in_force.split(',').map(str::to_owned).collect();
        let is_edge = |word: &str| word.starts_with('1');
        let edges: Vec<usize> = (0..words.len()).filter(|it| is_edge(&words[*it])).collect();
        let edge = self.fake.random.pick(&edges);
        let place = words[edge].split([':', '@']).next().unwrap().to_owned();
        let mut rollback = None;
        match self.fake.random.below(12) {
            0 => words.push("x".to_owned()),
            1 | 2 if edges.len() > 1 => drop(words.remove(edge)),
            3 => {}
            4 | 5 => words[edge] = format!("{place}:{}", 1 + self.fake.random.below(3)),
            6 => words[edge] = format!("{place}@{}", self.fake.random.below(3)),
            7 => {
                words.retain(|word| !word.starts_with('o'));
                words.push(format!("o{}", 4 + self.fake.random.below(2)));
            }
            8 => {
                words.retain(|word| !word.starts_with('e'));
                words.extend(
                    [["e0"].as_slice(), &["e1"], &[]][self.fake.random.below(3) as usize]
                        .iter()
                        .map(|it| (*it).to_owned()),
                );
            }
            9 => {
                let number = self.fake.random.below(self.fake.generations.len() as u64);
                rollback = Some(number + 1);
                words = vec![self.fake.generations[number as usize].clone()];
            }
            _ => {
                let port = (1935 + self.fake.random.below(6)).to_string();
                if !words.iter().any(|it| it.starts_with(&port)) {
                    words.push(port);
                }
            }
        }
        let drain_ms = self.fake.random.pick(&[None, Some(0), Some(1_000), Some(5_000)]);
        let expect_generation = match self.fake.random.below(10) {
            0 => Some(generation + 1),
            1 | 2 => Some(generation),
            _ => None,
        };
        let yes = self.fake.random.percent(70);
        let new = Apply::new("/file".into(), words.join(","));
        self.ask(Command::Apply(Apply { expect_generation, yes, drain_ms, rollback, ..new }));
    }

    /// A client asks; a refusal must change nothing.
    fn ask(&mut self, command: Command) {
        self.step(Input::Time);
        let Some(supervisor) = &self.supervisor else { return };
        self.last_client += 1;
        let client = self.last_client;
        self.fake.owed.insert(client);
        let (stay, leave) = staying(supervisor);
        self.asked.insert(client, (stay, leave, format!("{:?}", supervisor.cluster)));
        if let (Command::Apply(apply), None) = (&command, supervisor.queue.runs()) {
            self.change = parse(&apply.text).ok().map(|new| (supervisor.cluster.clone(), new));
        }
        let picture = |it: &Reconciler| {
            let members =
                it.members.iter().map(|m| (m.id.clone(), m.machine.state().clone(), m.spec.clone()));
            (members.collect::<Vec<_>>(), it.queue, format!("{:?}", it.cluster))
        };
        let (before, effects) = (picture(supervisor), self.fake.effects);
        let by = Some(By { pid: 4711, uid: 0, login_uid: None });
        self.fake.answers.clear();
        self.step(Input::Asked { client, by, command });
        let answers = std::mem::take(&mut self.fake.answers);
        let refused = answers.iter().any(|(to, how)| {
            *to == client && how.as_ref().is_err_and(|error| matches!(error.code, Code::Busy | Code::Ending))
        });
        if refused {
            assert_eq!(effects, self.fake.effects, "a refused command had an effect");
            let after = self.supervisor.as_ref().map(picture).expect("a refused command ended it");
            assert_eq!(before, after, "a refused command changed something");
        }
    }

    /// Looks at all after one step.
    fn look(&mut self, supervisor: &mut Reconciler) {
        let now = self.fake.now;
        let mut restarted = 0;
        for member in &supervisor.members {
            let (id, state) = (&member.id, member.machine.state());
            let held = self.fake.held.get(id).copied();
            assert_eq!(
                member.live.map(|live| (live.instance, live.pid)),
                held,
                "{id}: another process is known"
            );
            let has_process = match state {
                State::Starting | State::Running { .. } | State::Stopping { .. } | State::Killing { .. } => {
                    true
                }
                State::Stopped => {
                    assert_eq!(member.machine.wanted(), Wanted::Down, "{id} is wanted and stopped");
                    false
                }
                State::Backoff { until } => {
                    assert!(*until <= now + LONGEST, "{id} is tried again too late");
                    let turns = Spacing::GAP * u32::try_from(supervisor.members.len()).unwrap();
                    assert!(now <= *until + turns, "{id} is not tried again");
                    assert!(member.machine.last_end().is_some(), "{id} is backed off without a reason");
                    false
                }
                State::Failed { why } | State::Unknown { why } => {
                    assert!(!why.is_empty(), "{id} is left without a reason");
                    false
                }
            };
            assert_eq!(held.is_some(), has_process, "{id} is {state:?}");
            self.look_at_event(id, state);
            if let (Some((_, pid)), Some(holder)) = (held, self.fake.holder(id)) {
                assert_eq!(pid, holder, "{id} has another process");
            }
            let deadline = member.machine.deadline();
            let waits = matches!(state, State::Backoff { .. });
            assert!(waits || deadline.is_none_or(|deadline| deadline > now), "{id}: a deadline was missed");
            let counted = member.machine.restarts();
            restarted += u32::from(counted > self.restarts.insert(id.clone(), counted).unwrap_or(0));
        }
        for unit in self.fake.held.keys() {
            assert!(supervisor.index(unit).is_some(), "{unit} has a process and is not supervised");
        }
        assert!(restarted <= 1, "siblings are restarted together");
        if restarted == 1 {
            let gap = self.last_restart.is_none_or(|last| now >= last + Spacing::GAP);
            assert!(gap, "siblings are restarted within {:?}", Spacing::GAP);
            self.last_restart = Some(now);
        }
        self.look_at_stops(supervisor);
        self.look_at_answers(supervisor);
        while let Some(event) = supervisor.poll_startup() {
            match event {
                StartupEvent::Ready { unit, .. } => {
                    assert!(self.ready.insert(unit.clone()), "{unit} is told to be ready twice");
                }
                StartupEvent::Complete { ready, waiting } => {
                    let stay = supervisor.members.iter().filter(|member| member.departure.is_none());
                    assert_eq!(ready + waiting, stay.count());
                    assert!(!self.is_complete, "a start is complete twice");
                    self.is_complete = true;
                }
                StartupEvent::Adopted { .. }
                | StartupEvent::Unknown { .. }
                | StartupEvent::Started { .. }
                | StartupEvent::NotReady { .. } => {}
            }
        }
    }

    /// What was told last of a unit is how it is.
    fn look_at_event(&self, id: &UnitId, state: &State) {
        use Kind::{
            Adopted, Critical, Died, Frozen, GaveUp, LeftAlone, NotStarted, Passing, Ready, Renewed, Resumed,
            Started, Stopped, Warning,
        };
        let running = [Ready, Adopted, Renewed, Resumed, Passing, Warning, Critical];
        let told = self.fake.told.get(id);
        let fits = match state {
            State::Starting => told.is_some_and(|told| [Started, Renewed].contains(told)),
            State::Running { .. } => told.is_some_and(|told| running.contains(told)),
            // That it is to stop was asked for.
            State::Stopping { .. } => true,
            // The worker behind one that has made place may say who it is while it is killed.
            State::Killing { .. } => told.is_some_and(|told| [Frozen, Renewed].contains(told)),
            State::Backoff { .. } => told.is_some_and(|told| [Died, NotStarted].contains(told)),
            State::Failed { .. } => told == Some(&GaveUp),
            State::Unknown { .. } => told == Some(&LeftAlone),
            State::Stopped => {
                told.is_none_or(|told| [Stopped, Kind::Added, Kind::TakenBack, Kind::Removed].contains(told))
            }
        };
        assert!(fits, "{id} is {state:?}, and what was told last is {told:?}");
    }

    /// Encoder, then edges, then origin: nobody is stopped before what hangs on it, unless that does not end.
    fn look_at_stops(&mut self, supervisor: &Reconciler) {
        let place = |role| [Role::Encoder, Role::Edge, Role::Origin].iter().position(|it| *it == role);
        if supervisor.queue.runs() == Some(Runs::End) {
            self.end_began.get_or_insert(self.fake.now);
        }
        for (unit, players) in std::mem::take(&mut self.fake.stops) {
            let is_leaving = supervisor.member(&unit).is_some_and(|member| member.departure.is_some());
            if is_leaving && supervisor.queue.runs() != Some(Runs::End) {
                let consented = self.fake.consents.get(&unit) == Some(&true);
                assert!(
                    players == 0 || consented,
                    "{unit}: {players} players are cut, and nobody has said so"
                );
                // As it runs the file has it nowhere.
                continue;
            }
            if let (Some(Runs::Apply), Some((old, new))) = (supervisor.queue.runs(), &self.change) {
                let listen = |it: &Cluster| it.ports().find(|port| port.id() == unit).map(Port::listen_addr);
                let is_kept = listen(old).is_some() && listen(old) == listen(new);
                assert!(!is_kept, "{unit} is stopped by a change, and both files have it");
            }
            let Some(stopped) = supervisor.member(&unit) else { continue };
            let Some(began) = self.end_began else { continue };
            let patient = self.fake.now >= began + STOP_LIMIT;
            if stopped.machine.wanted() == Wanted::Up {
                continue;
            }
            for earlier in supervisor.members.iter().filter(|it| place(it.role()) < place(stopped.role())) {
                let left = earlier.live.is_some_and(|live| live.adopted);
                assert!(earlier.is_at_rest() || patient || left, "{unit} is stopped before {}", earlier.id);
            }
        }
    }

    fn look_at_answers(&mut self, supervisor: &Reconciler) {
        for (client, outcome) in &self.fake.answers {
            let Some((units, left, cluster)) = self.asked.remove(client) else { continue };
            let Err(error) = outcome else { continue };
            // Who came to a port that is taken out is told of when it is.
            let is_done = error.message.contains("goes on until nobody is left");
            let codes = [Code::Refused, Code::Invalid, Code::NeedsConsent, Code::Changed];
            if codes.contains(&error.code) && !is_done {
                let why = &error.message;
                // One that moved may have come to its new place.
                let stay = staying(supervisor).0.into_iter().filter(|id| !left.contains(id));
                assert_eq!(units, stay.collect::<Vec<_>>(), "{why}");
                assert_eq!(cluster, format!("{:?}", supervisor.cluster), "{why}");
            }
        }
        if supervisor.queue.runs().is_none() {
            let specs: BTreeMap<UnitId, ProcessSpec> = specs(&supervisor.cluster, &self.dirs)
                .into_iter()
                .map(|(spec, _)| (spec.id().clone(), spec))
                .collect();
            // The order of ports is no difference.
            let sorted = |spec: &ProcessSpec| {
                let mut spec = spec.clone();
                if let ProcessSpec::Worker(spec) = &mut spec {
                    spec.forward.sort_by(|a, b| a.id.cmp(&b.id));
                }
                spec
            };
            for member in &supervisor.members {
                match (specs.get(&member.id), &member.departure) {
                    (Some(_), Some(departure)) => assert_eq!(departure.then, Then::Moved, "{}", member.id),
                    (Some(spec), None) => {
                        let spec = match spec {
                            ProcessSpec::Worker(spec) => {
                                ProcessSpec::Worker(supervisor.with_leaving(spec.clone(), &[]))
                            }
                            ProcessSpec::Encoder(_) => spec.clone(),
                        };
                        assert_eq!(sorted(&member.spec), sorted(&spec), "it has other values than the file");
                        assert!(member.is_wanted(), "{} is in the file, and not wanted", member.id);
                    }
                    (None, _) => assert!(!member.is_wanted(), "{} is not in the file", member.id),
                }
            }
            let ids: BTreeSet<&UnitId> = supervisor.members.iter().map(|member| &member.id).collect();
            assert!(specs.keys().all(|id| ids.contains(id)), "not all of the file is supervised");
            assert_eq!(parse(&self.fake.in_force).unwrap(), supervisor.cluster, "another file is in force");
            assert_eq!(self.fake.generations.len() as u64, supervisor.generation);
        }
    }

    fn ended(&mut self, supervisor: &Reconciler, end: &End, is_started: bool) {
        self.fake.tell(|| format!("the supervisor ends: {end:?}"));
        assert!(self.fake.owed.is_empty(), "it ended and owes answers to {:?}", self.fake.owed);
        let held = self.fake.held.len();
        match end {
            End::Left(left) => assert_eq!(*left, held, "more or fewer processes are left than was said"),
            End::Stopped(Ok(())) => {
                let ours =
                    |it: &&super::member::Member| it.live.is_some_and(|live| is_started || !live.adopted);
                assert_eq!(supervisor.members.iter().filter(ours).count(), 0, "it said that all is stopped");
            }
            End::Stopped(Err(why)) => {
                for unit in self.fake.held.keys() {
                    assert!(
                        !is_started || why.message.contains(unit.as_str()),
                        "{unit} is left, and not told: {why}"
                    );
                }
            }
        }
        self.fake.lose_supervisor();
        self.asked.clear();
    }

    /// Nothing goes wrong any more: all is well after a while, and stops when it is told to.
    fn be_calm(&mut self) {
        self.fake.be_calm();
        if self.supervisor.is_none() {
            let text = self.next_file();
            self.start(&text);
        }
        self.pass(CALM);
        let Some(supervisor) = &self.supervisor else {
            // It was told to end before.
            return;
        };
        assert!(self.fake.owed.is_empty(), "{:?} wait for ever", self.fake.owed);
        assert!(self.is_complete && supervisor.queue.runs().is_none(), "{:?}", supervisor.queue);
        for member in &supervisor.members {
            let serves = member.is_ready() && self.fake.holder(&member.id).is_some();
            // Given up for good, until somebody asks: by its exit code, or for want of a binary.
            let given_up = matches!(member.machine.state(), State::Failed { .. });
            let unwanted = member.machine.wanted() == Wanted::Down
                && supervisor.cluster.ports().all(|it| it.id() != member.id);
            assert!(
                serves || given_up || unwanted,
                "{} is {:?} in the end",
                member.id,
                member.machine.state()
            );
            if let Some(pid) = self.fake.holder(&member.id) {
                let told = self.fake.processes[&pid].spec.as_ref();
                assert_eq!(told, Some(&member.spec), "{} was not told what it is to do", member.id);
            }
        }
        self.ask(Command::Down);
        self.pass(DOWN);
        assert!(self.supervisor.is_none(), "it does not end");
        let living = self.fake.processes.iter().filter(|(_, process)| process.exit.is_none());
        let living: Vec<_> = living.filter(|(_, process)| process.proven).collect();
        assert!(living.is_empty(), "left alive: {living:?}");
    }
}
