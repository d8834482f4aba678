//! Which command is accepted while which runs. Pure: who asks what goes in, a verdict comes out. One thing runs at a
//! time; nothing is queued behind it, because whoever asks for a change wants to see what it does.
//!
//! | asked while → | nothing runs | start | apply, restart, upgrade | end |
//! | --- | --- | --- | --- | --- |
//! | status, plan | answer | answer | answer | answer |
//! | apply, restart, upgrade | begin | refuse | refuse | refuse |
//! | down | end | end | end | refuse |
//! | SIGTERM, SIGINT, SIGQUIT | end | end | end | hurry |

use std::time::{Duration, Instant};

use control::{Code, Error};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// How all is.
    Status,
    /// What a changed file would do.
    Plan,
    /// Bring a changed file into force.
    Apply,
    /// Restart processes.
    Restart,
    /// Run another program.
    Upgrade,
    /// Stop all processes, and end.
    Down,
    /// SIGTERM or SIGINT: as [`Asked::Down`], with nobody to tell.
    Stop,
    /// SIGQUIT: end, and leave the processes.
    Leave,
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// The first start of all processes.
    Start,
    /// A change of the file in force.
    Apply,
    /// Processes are restarted.
    Restart,
    /// Ports are given another program.
    Upgrade,
    /// The supervisor ends. Nothing comes after it.
    End,
}

/// What runs, who asked for it, since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// What.
    pub(crate) what: Runs,
    /// The process that asked, if it is known.
    by: Option<u32>,
    since: Instant,
}

/// How what is asked is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// At once, beside whatever runs.
    Answer,
    /// It runs from now on.
    Begin,
    /// The end begins; what ran is broken off.
    End,
    /// The end is under way, and is to wait no longer.
    Hurry,
}

/// Why it is not taken up. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the supervisor is busy: {} (for {} s{}); try again when that is done",
    name(*.asked), doing(.running.what), .lasts.as_secs(), by(.running.by))]
pub(crate) struct Refusal {
    asked: Asked,
    running: Running,
    /// How long that has been running.
    lasts: Duration,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let code = if refusal.running.what == Runs::End { Code::Ending } else { Code::Busy };
        Self::new(code, refusal)
    }
}

fn name(asked: Asked) -> &'static str {
    match asked {
        Asked::Status => "status",
        Asked::Plan => "plan",
        Asked::Apply => "apply",
        Asked::Restart => "restart",
        Asked::Upgrade => "upgrade",
        Asked::Down => "down",
        Asked::Stop => "SIGTERM",
        Asked::Leave => "SIGQUIT",
    }
}

fn doing(runs: Runs) -> &'static str {
    match runs {
        Runs::Start => "it is starting",
        Runs::Apply => "it applies a changed file",
        Runs::Restart => "it restarts processes",
        Runs::Upgrade => "it gives ports another program",
        Runs::End => "it is ending",
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(", asked by pid {pid}")).unwrap_or_default()
}

/// What runs, if anything does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    running: Option<Running>,
}

impl Queue {
    /// Of a supervisor that starts at `now`.
    pub(crate) fn starting(now: Instant) -> Self {
        Self { running: Some(Running { what: Runs::Start, by: None, since: now }) }
    }

    /// Takes what the process `by` asks at `now`.
    ///
    /// # Errors
    /// When it is not taken up; then the queue is as it was.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        asked: Asked,
        by: Option<u32>,
    ) -> Result<Accepted, Refusal> {
        let busy = |running: Running| {
            let lasts = now.saturating_duration_since(running.since);
            Err(Refusal { asked, running, lasts })
        };
        let (what, accepted) = match (asked, self.running) {
            (Asked::Status | Asked::Plan, _) => return Ok(Accepted::Answer),
            (Asked::Stop | Asked::Leave, Some(Running { what: Runs::End, .. })) => {
                return Ok(Accepted::Hurry);
            }
            (Asked::Down, Some(running @ Running { what: Runs::End, .. })) => return busy(running),
            (Asked::Apply | Asked::Restart | Asked::Upgrade, Some(running)) => return busy(running),
            (Asked::Down | Asked::Stop | Asked::Leave, _) => (Runs::End, Accepted::End),
            (Asked::Apply, None) => (Runs::Apply, Accepted::Begin),
            (Asked::Restart, None) => (Runs::Restart, Accepted::Begin),
            (Asked::Upgrade, None) => (Runs::Upgrade, Accepted::Begin),
        };
        self.running = Some(Running { what, by, since: now });
        Ok(accepted)
    }

    /// What ran is done. The end is never done: the supervisor is gone then.
    pub(crate) fn handle_done(&mut self) {
        if self.running.is_some_and(|running| running.what != Runs::End) {
            self.running = None;
        }
    }

    /// What a command has the supervisor do, since when and for whom, for a person. The first start is nobody's command.
    pub(crate) fn busy(&self, now: Instant) -> Option<String> {
        let running = self.running.filter(|running| running.what != Runs::Start)?;
        let lasts = now.saturating_duration_since(running.since).as_secs();
        Some(format!("{} (for {lasts} s{})", doing(running.what), by(running.by)))
    }

    /// What it does, for a person, if that takes a while.
    pub(crate) fn does(&self) -> Option<&'static str> {
        self.running.map(|running| doing(running.what))
    }

    /// What runs.
    pub(crate) fn runs(&self) -> Option<Runs> {
        self.running.map(|running| running.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Operation {
        Ask(Asked),
        Done,
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let one = prop_oneof![
            2 => Just(Operation::Ask(Asked::Status)),
            2 => Just(Operation::Ask(Asked::Plan)),
            6 => Just(Operation::Ask(Asked::Apply)),
            6 => Just(Operation::Ask(Asked::Restart)),
            3 => Just(Operation::Ask(Asked::Upgrade)),
            1 => Just(Operation::Ask(Asked::Down)),
            1 => Just(Operation::Ask(Asked::Stop)),
            1 => Just(Operation::Ask(Asked::Leave)),
            9 => Just(Operation::Done),
        ];
        proptest::collection::vec(one, 1..60)
    }

    proptest! {
        #[test]
        fn whatever_the_sequence_one_thing_runs_and_a_refusal_changes_nothing(operations in operations()) {
            let start = Instant::now();
            let mut queue = Queue::starting(start);
            let (mut begun, mut done, mut ends) = (1, 0, 0);
            for (step, operation) in operations.into_iter().enumerate() {
                let now = start + Duration::from_secs(step as u64);
                let before = queue;
                match operation {
                    Operation::Done => {
                        queue.handle_done();
                        prop_assert_eq!(ends > 0, queue.runs() == Some(Runs::End), "the end is never done");
                        done += u32::from(before.runs().is_some() && queue.runs().is_none());
                    }
                    Operation::Ask(asked) => match queue.handle(now, asked, Some(7)) {
                        Err(refusal) => {
                            prop_assert_eq!(queue, before);
                            prop_assert!(before.running.is_some(), "idle and refused");
                            prop_assert!(!matches!(asked, Asked::Status | Asked::Plan | Asked::Stop | Asked::Leave));
                            prop_assert_eq!(Some(refusal.running), before.running);
                            prop_assert_eq!(refusal.lasts, now - refusal.running.since);
                        }
                        Ok(Accepted::Answer) => {
                            prop_assert!(matches!(asked, Asked::Status | Asked::Plan));
                            prop_assert_eq!(queue, before);
                        }
                        Ok(Accepted::Begin) => {
                            prop_assert_eq!(before.runs(), None, "two things at once");
                            prop_assert!(matches!(queue.runs(), Some(Runs::Apply | Runs::Restart | Runs::Upgrade)));
                            begun += 1;
                        }
                        Ok(Accepted::End) => {
                            prop_assert_eq!(queue.runs(), Some(Runs::End));
                            prop_assert!(before.runs() != Some(Runs::End));
                            // What it breaks off is done with.
                            done += u32::from(before.runs().is_some());
                            begun += 1;
                            ends += 1;
                        }
                        Ok(Accepted::Hurry) => {
                            prop_assert_eq!(before.runs(), Some(Runs::End));
                            prop_assert_eq!(queue, before);
                        }
                    },
                }
                prop_assert_eq!(begun - done, u32::from(queue.runs().is_some()));
                prop_assert!(ends <= 1);
            }
        }
    }

    #[test]
    fn a_refusal_says_what_runs_since_when_and_who_asked_for_it() {
        let start = Instant::now();
        let mut queue = Queue::starting(start);
        queue.handle_done();
        queue.handle(start, Asked::Restart, Some(4711)).unwrap();
        let later = start + Duration::from_secs(12);
        assert_eq!(queue.busy(later).unwrap(), "it restarts processes (for 12 s, asked by pid 4711)");
        let refusal = queue.handle(later, Asked::Apply, None).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "apply: the supervisor is busy: it restarts processes (for 12 s, asked by pid 4711); \
             try again when that is done"
        );
    }
}
