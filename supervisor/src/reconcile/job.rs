//! A command at work, as data: the steps that are left, what undoes it, what it waits for.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::events::By;
use cluster::plan::Change;
use cluster::{Cluster, Role, UnitId, WorkerSpec};
use control::Error;
use control::api::{Apply, Upgraded};

use super::departure::Departure;
use super::kernel::{Answer, Client, InForce, Instance, Program, Ticket};

/// A command at work.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// Who is to be told.
    pub(crate) client: Option<Client>,
    /// Who asked, if that is known.
    pub(crate) by: Option<By>,
    /// What was asked, and when; its end is an event then.
    pub(crate) asked: Option<(String, Instant)>,
    /// What is left to be done, in this order.
    pub(crate) steps: VecDeque<Step>,
    /// What is done in place of the steps that are left, should one fail.
    pub(crate) undo: Vec<Step>,
    /// It has changed something that can still be undone; other shares of the memory are nothing.
    pub(crate) has_begun: bool,
    /// What failed.
    pub(crate) errors: Vec<Error>,
    /// Of an upgrade: what becomes of each port, with the connections that it had lost before.
    pub(crate) upgrade: Option<(Upgraded, Vec<u64>)>,
    /// The question that its first step waits for.
    pub(crate) question: Option<Ticket>,
    /// The answer to it.
    pub(crate) answer: Option<Answer>,
    /// When its first step goes on though nothing happens.
    pub(crate) due: Option<Instant>,
}

impl Job {
    pub(crate) fn new(client: Option<Client>, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { client, steps: steps.into_iter().collect(), ..Self::default() }
    }

    /// What is in force when it is done, if that is yet to come.
    pub(crate) fn coming(&self) -> Option<&Cluster> {
        self.steps.iter().find_map(|step| match step {
            Step::Commit { new, .. } => Some(&**new),
            _ => None,
        })
    }

    /// Whether it may still be undone, or is: then what it has begun to change is nobody else's.
    pub(crate) fn is_open(&self) -> bool {
        self.steps.iter().any(|step| {
            matches!(
                step,
                Step::Commit { .. } | Step::Configure(_) | Step::LeaveAgain { .. } | Step::GoBack(_)
            )
        })
    }

    /// Why a change failed that can still be undone, with what that means.
    pub(crate) fn as_before(&self, why: impl std::fmt::Display) -> String {
        let what = if self.has_begun {
            "nothing was touched that is not put back as it was"
        } else {
            "nothing was touched"
        };
        format!("{what}: {why}")
    }

    /// Has `steps` done before those that are left.
    pub(crate) fn push_first(
        &mut self,
        steps: impl IntoIterator<Item = Step, IntoIter: DoubleEndedIterator>,
    ) {
        for step in steps.into_iter().rev() {
            self.steps.push_front(step);
        }
    }
}

/// What came of taking a step.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It waits, until something happens or this moment comes.
    Wait(Step, Option<Instant>),
    /// It is done.
    Done,
    /// It failed, and with it the command.
    Failed(Error),
}

/// One step of a command. What is `None` at first is filled in when the step begins.
#[derive(Debug)]
pub(crate) enum Step {
    /// Ask every process that is taken over, or started, to be ready; tell of each.
    AwaitStart(AwaitStart),
    /// Wait for the first report of those that are ready, and for the streams that are live.
    AwaitStreams {
        /// Until when at most.
        end: Instant,
        /// When all are asked again.
        ask: Instant,
    },
    /// Read a file.
    Parse {
        /// The file.
        file: Apply,
    },
    /// Find out what it changes, and whom that disconnects.
    Weigh {
        /// The file.
        file: Apply,
        /// What it says.
        new: Box<Cluster>,
        /// When those that would be stopped were asked who is connected.
        asked: Option<Instant>,
    },
    /// Start an added unit.
    Start {
        /// Which.
        id: UnitId,
    },
    /// Wait until a unit is ready.
    AwaitReady(AwaitReady),
    /// Give a port its new spec.
    Configure(Configure),
    /// From here on the new file is in force.
    Commit {
        /// The file.
        file: Apply,
        /// What it says.
        new: Box<Cluster>,
        /// What it changes.
        changes: Vec<Change>,
    },
    /// Start what was given up: its cause may be mended.
    Retry {
        /// The command has changed nothing yet.
        idle: bool,
    },
    /// Have ports leave their places: nobody comes any more, and who is there has some time.
    Leave(Leave),
    /// Wait until they have.
    AwaitLeft {
        /// Which.
        ids: Vec<UnitId>,
    },
    /// Have a port stay that was leaving its place.
    Keep {
        /// Which.
        id: UnitId,
    },
    /// Have it leave all the same: the change that would have kept it is undone.
    LeaveAgain {
        /// Which.
        id: UnitId,
        /// As it was.
        departure: Box<Departure>,
    },
    /// Wait until all ports have said that they took their values.
    AwaitAnswers {
        /// Until when at most.
        end: Option<Instant>,
    },
    /// Stop units, and forget them.
    Remove {
        /// Which.
        ids: Vec<UnitId>,
        /// Until when they are waited for.
        end: Option<Instant>,
        /// As what that is told.
        how: Removal,
    },
    /// Start, stop or restart the encoder, as the file in force says.
    Encoder {
        /// Until when its end is waited for.
        end: Option<Instant>,
    },
    /// Find out what a restart into a program costs.
    Examine(Examine),
    /// Restart a unit, as a person asked.
    Restart(Restart),
    /// Have the worker of a port make place, and wait for the next one.
    Renew(Renew),
    /// Look at ports that run another program, until that is proven.
    Try(Try),
    /// Every start runs this program from now on.
    Install(PathBuf),
    /// Wait until a unit plays a stream.
    AwaitPlay(AwaitPlay),
    /// Put the file in force that was so before a start that is given up.
    GoBack(Box<InForce>),
    /// Stop the units of a role.
    Stop(StopRole),
    /// Remove what vanishes with the last process, and say what is left.
    Clear {
        /// Not those that were taken over.
        all: bool,
    },
}

/// See [`Step::AwaitStart`].
#[derive(Debug)]
pub(crate) struct AwaitStart {
    pub(crate) begin: Instant,
    /// Told to be ready.
    pub(crate) told: Vec<UnitId>,
}

/// See [`Step::AwaitReady`].
#[derive(Debug)]
pub(crate) struct AwaitReady {
    pub(crate) id: UnitId,
    /// Another process than this one.
    pub(crate) before: Option<Instance>,
    /// Until when at most.
    pub(crate) end: Option<Instant>,
    /// Of a restart.
    pub(crate) restart: Option<Restarted>,
    /// The command goes on when it fails, and tells of it at its end.
    pub(crate) go_on: bool,
    /// What it has to run then.
    pub(crate) program: Program,
}

/// See [`Step::Leave`].
#[derive(Debug)]
pub(crate) struct Leave {
    /// Taken out of the cluster.
    pub(crate) removed: Vec<UnitId>,
    /// To be started elsewhere.
    pub(crate) moved: Vec<UnitId>,
    /// For how long whoever is there may stay; without it an ordinary time.
    pub(crate) limit: Option<Duration>,
    /// Whoever is left then may be disconnected.
    pub(crate) consent: bool,
}

/// Why a unit is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Its addition is undone.
    TakenBack,
    /// It is not in the file.
    Removed,
}

/// A restart that has begun.
#[derive(Debug)]
pub(crate) struct Restarted {
    /// When.
    pub(crate) begin: Instant,
    /// What it then has to play.
    pub(crate) streams: Vec<String>,
    /// What is restarted after it.
    pub(crate) rest: Vec<UnitId>,
}

/// See [`Step::Examine`].
#[derive(Debug)]
pub(crate) struct Examine {
    /// Which ports.
    pub(crate) ids: Vec<UnitId>,
    pub(crate) program: Program,
    pub(crate) cost: Cost,
    /// What has to be said so that it is done at any cost.
    pub(crate) consent: &'static str,
}

/// See [`Step::Restart`].
#[derive(Debug)]
pub(crate) struct Restart {
    pub(crate) id: UnitId,
    /// What is restarted after it.
    pub(crate) rest: Vec<UnitId>,
    /// Whoever is connected may have to connect again.
    pub(crate) cost: Cost,
    pub(crate) program: Program,
}

/// What a restart may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// No connection.
    Nothing,
    /// All connections, where they cannot be kept.
    AsNeeded,
    /// All connections: the process ends.
    Cold,
}

/// See [`Step::Renew`].
#[derive(Debug)]
pub(crate) struct Renew {
    pub(crate) id: UnitId,
    pub(crate) restart: Restarted,
    /// The process, and the generation of the worker that makes place, if that is known.
    pub(crate) before: (Instance, Option<u32>),
    pub(crate) cost: Cost,
    pub(crate) program: Program,
    /// It makes place; until when the next one is waited for at most.
    pub(crate) end: Option<Instant>,
}

/// See [`Step::Try`].
#[derive(Debug)]
pub(crate) struct Try {
    /// The ports.
    pub(crate) ids: Vec<UnitId>,
    pub(crate) program: Program,
    /// When it is proven.
    pub(crate) end: Option<Instant>,
}

/// See [`Step::Configure`].
#[derive(Debug)]
pub(crate) struct Configure {
    pub(crate) spec: Box<WorkerSpec>,
    /// Told, and undone, as a part of a change; else the command goes on when it fails.
    pub(crate) is_change: bool,
    pub(crate) phase: Phase,
}

impl Configure {
    /// Not begun yet.
    pub(crate) fn step(spec: WorkerSpec, is_change: bool) -> Step {
        Step::Configure(Self { spec: Box::new(spec), is_change, phase: Phase::Begin })
    }
}

/// How far a new config of a port has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nothing was done.
    Begin,
    /// It is written, and the process is being told.
    Telling {
        /// What it replaces.
        before: Box<WorkerSpec>,
    },
    /// The process did not take it, and is being told the old one.
    Undoing {
        /// Why.
        why: String,
    },
}

/// See [`Step::AwaitPlay`].
#[derive(Debug)]
pub(crate) struct AwaitPlay {
    pub(crate) id: UnitId,
    pub(crate) stream: String,
    /// Its encoder has to come back, and is waited for until then.
    pub(crate) encoder: Option<Instant>,
    /// What is restarted after it.
    pub(crate) rest: Vec<UnitId>,
    /// Until when it is played at most, since its turn came.
    pub(crate) end: Option<Instant>,
    /// When it is played again.
    pub(crate) again: Option<Instant>,
    /// It was not played in time, and why: since then the origin is asked whether anybody still publishes it.
    pub(crate) failed: Option<(Instant, String)>,
}

/// See [`Step::Stop`].
#[derive(Debug)]
pub(crate) struct StopRole {
    pub(crate) role: Role,
    /// Not those that were taken over.
    pub(crate) all: bool,
    /// Which, and until when they are waited for.
    pub(crate) begun: Option<(Vec<UnitId>, Instant)>,
}
