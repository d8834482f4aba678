//! What each state makes of each event; all pairs are written, none is left to a wildcard.

use std::time::{Duration, Instant};

use super::exit::{Doing, Exit, Last, Meaning, judge};
use super::state::{Action, Event, KILL_REPEAT, STOP_STEP, State, Stop, Wanted};
use super::unit::Unit;

impl Unit {
    pub(super) fn handle_stopped(&mut self, now: Instant, event: Event, jitter: f64) -> Option<Action> {
        match event {
            Event::Want(Wanted::Up) | Event::Restart => self.spawn(),
            Event::Adopted => {
                self.state = State::Running { since: now };
                None
            }
            Event::Unproven { why } => self.unknown(why),
            // A spawn may fail after its unit was given up.
            Event::SpawnFailed { why } => match self.wanted {
                Wanted::Up => self.spawn_failed(now, why, jitter),
                Wanted::Down => None,
            },
            Event::Want(Wanted::Down)
            | Event::Deadline
            | Event::Ready
            | Event::Frozen { .. }
            | Event::AskFailed
            | Event::Exited(_)
            | Event::Freed => None,
        }
    }

    pub(super) fn handle_starting(&mut self, now: Instant, event: Event, jitter: f64) -> Option<Action> {
        match event {
            Event::Want(Wanted::Down) | Event::Restart => self.ask_stop(now),
            Event::SpawnFailed { why } => self.spawn_failed(now, why, jitter),
            Event::Ready | Event::Adopted => {
                self.state = State::Running { since: now };
                None
            }
            Event::Frozen { why } => self.kill(now, why, None),
            Event::Exited(exit) => self.exited(now, exit, Doing::Work, None, jitter),
            Event::Unproven { why } => self.unknown(why),
            Event::Want(Wanted::Up) | Event::Deadline | Event::AskFailed | Event::Freed => None,
        }
    }

    pub(super) fn handle_running(
        &mut self,
        now: Instant,
        event: Event,
        since: Instant,
        jitter: f64,
    ) -> Option<Action> {
        let ready_for = Some(now.saturating_duration_since(since));
        match event {
            Event::Want(Wanted::Down) | Event::Restart => self.ask_stop(now),
            Event::Frozen { why } => self.kill(now, why, ready_for),
            Event::Exited(exit) => self.exited(now, exit, Doing::Work, ready_for, jitter),
            Event::Want(Wanted::Up)
            | Event::Deadline
            | Event::SpawnFailed { .. }
            | Event::Ready
            | Event::AskFailed
            | Event::Adopted
            | Event::Unproven { .. }
            | Event::Freed => None,
        }
    }

    pub(super) fn handle_stopping(
        &mut self,
        now: Instant,
        event: Event,
        step: Stop,
        jitter: f64,
    ) -> Option<Action> {
        match event {
            Event::Deadline => match step {
                Stop::Asked => self.stop_step(now, Stop::Terminated),
                Stop::Terminated | Stop::Killed => self.stop_step(now, Stop::Killed),
            },
            Event::AskFailed => match step {
                Stop::Asked => self.stop_step(now, Stop::Terminated),
                Stop::Terminated | Stop::Killed => None,
            },
            // It cannot hear the polite ways.
            Event::Frozen { .. } => match step {
                Stop::Asked | Stop::Terminated => self.stop_step(now, Stop::Killed),
                Stop::Killed => None,
            },
            Event::Exited(exit) => self.exited(now, exit, Doing::Stop, None, jitter),
            Event::Want(_)
            | Event::Restart
            | Event::SpawnFailed { .. }
            | Event::Ready
            | Event::Adopted
            | Event::Unproven { .. }
            | Event::Freed => None,
        }
    }

    pub(super) fn handle_killing(
        &mut self,
        now: Instant,
        event: Event,
        why: &str,
        ready_for: Option<Duration>,
        jitter: f64,
    ) -> Option<Action> {
        match event {
            Event::Restart => {
                self.state = State::Stopping { step: Stop::Killed, until: now + KILL_REPEAT };
                None
            }
            Event::Deadline => self.kill(now, why.to_owned(), ready_for),
            Event::Exited(exit) => self.exited(now, exit, Doing::Die { why }, ready_for, jitter),
            Event::Want(_)
            | Event::SpawnFailed { .. }
            | Event::Ready
            | Event::Frozen { .. }
            | Event::AskFailed
            | Event::Adopted
            | Event::Unproven { .. }
            | Event::Freed => None,
        }
    }

    pub(super) fn handle_backoff(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Want(Wanted::Down) => {
                self.state = State::Stopped;
                None
            }
            Event::Restart => self.spawn(),
            Event::Deadline => {
                self.restarts = self.restarts.saturating_add(1);
                self.spawn()
            }
            Event::Unproven { why } => self.unknown(why),
            Event::Want(Wanted::Up)
            | Event::SpawnFailed { .. }
            | Event::Ready
            | Event::Frozen { .. }
            | Event::AskFailed
            | Event::Exited(_)
            | Event::Adopted
            | Event::Freed => None,
        }
    }

    pub(super) fn handle_failed(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Want(Wanted::Down) => {
                self.state = State::Stopped;
                None
            }
            Event::Restart => self.spawn(),
            Event::Want(Wanted::Up)
            | Event::Deadline
            | Event::SpawnFailed { .. }
            | Event::Ready
            | Event::Frozen { .. }
            | Event::AskFailed
            | Event::Exited(_)
            | Event::Adopted
            | Event::Unproven { .. }
            | Event::Freed => None,
        }
    }

    pub(super) fn handle_unknown(&mut self, now: Instant, event: Event) -> Option<Action> {
        match event {
            Event::Freed => self.ended(),
            Event::Adopted => {
                self.state = State::Running { since: now };
                match self.wanted {
                    Wanted::Up => None,
                    Wanted::Down => self.ask_stop(now),
                }
            }
            Event::Unproven { why } => self.unknown(why),
            Event::Want(_)
            | Event::Restart
            | Event::Deadline
            | Event::SpawnFailed { .. }
            | Event::Ready
            | Event::Frozen { .. }
            | Event::AskFailed
            | Event::Exited(_) => None,
        }
    }

    fn spawn(&mut self) -> Option<Action> {
        self.state = State::Starting;
        Some(Action::Spawn)
    }

    fn spawn_failed(&mut self, now: Instant, why: String, jitter: f64) -> Option<Action> {
        self.last_end = Some((now, Last::NotStarted { why }));
        self.state = State::Backoff { until: now + self.backoff.handle_death(now, None, jitter) };
        None
    }

    fn ask_stop(&mut self, now: Instant) -> Option<Action> {
        self.state = State::Stopping { step: Stop::Asked, until: now + STOP_STEP };
        Some(Action::AskStop)
    }

    fn stop_step(&mut self, now: Instant, step: Stop) -> Option<Action> {
        let (action, wait) = match step {
            Stop::Asked => (Action::AskStop, STOP_STEP),
            Stop::Terminated => (Action::Terminate, STOP_STEP),
            Stop::Killed => (Action::Kill, KILL_REPEAT),
        };
        self.state = State::Stopping { step, until: now + wait };
        Some(action)
    }

    fn kill(&mut self, now: Instant, why: String, ready_for: Option<Duration>) -> Option<Action> {
        self.state = State::Killing { why, ready_for, until: now + KILL_REPEAT };
        Some(Action::Kill)
    }

    fn exited(
        &mut self,
        now: Instant,
        exit: Exit,
        doing: Doing<'_>,
        ready_for: Option<Duration>,
        jitter: f64,
    ) -> Option<Action> {
        let end = judge(exit, doing);
        let (meaning, how) = (end.meaning, end.to_string());
        self.last_end = Some((now, Last::Ended(end)));
        match (meaning, self.wanted) {
            (Meaning::Asked, _) | (_, Wanted::Down) => return self.ended(),
            (Meaning::Refusal, Wanted::Up) => {
                let why = format!("{how}: it refuses its config; its log says why");
                self.state = State::Failed { why };
            }
            (Meaning::Crash | Meaning::Failure, Wanted::Up) => {
                let wait = self.backoff.handle_death(now, ready_for, jitter);
                self.state = State::Backoff { until: now + wait };
            }
        }
        None
    }

    /// An end that was wished for, or that nobody can judge.
    fn ended(&mut self) -> Option<Action> {
        match self.wanted {
            Wanted::Up => self.spawn(),
            Wanted::Down => {
                self.state = State::Stopped;
                None
            }
        }
    }

    fn unknown(&mut self, why: String) -> Option<Action> {
        self.state = State::Unknown { why };
        None
    }
}
