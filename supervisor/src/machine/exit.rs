//! What the end of a process means. [`judge`] is the one place that decides it: the machine acts on the [`Meaning`],
//! `status` and the log show the [`End`].

use std::fmt;

use control::service::{EX_CONFIG, EX_USAGE};
use nix::sys::signal::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Its exit code.
    Code(i32),
    /// The signal that ended it.
    Signal(i32),
    /// SIGKILL, and not for want of memory: somebody sent it.
    Killed,
    /// SIGKILL by the kernel, because the machine or the control group has no memory left.
    OutOfMemory,
    /// It was no child of this supervisor, so that the kernel does not tell.
    Unobserved,
}

/// The same start would end the same way.
const FINAL: [i32; 2] = [EX_USAGE as i32, EX_CONFIG as i32];

/// What a process was about when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing<'a> {
    /// It was to start, or to serve.
    Work,
    /// It was to stop, as a person wished.
    Stop,
    /// It was sent SIGKILL because it did not do its work.
    Die {
        /// What it failed to do.
        why: &'a str,
    },
}

/// What an end means for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It was wished for, so it is no death: what is wanted starts at once.
    Asked,
    /// A crash, a kill by somebody else, or an exit with 0 that nobody asked for: a death; the next start is backed off.
    Crash,
    /// We killed it for what it did not do: a death too.
    Failure,
    /// It refuses its arguments or its config: no next start without a change.
    Refusal,
}

/// The end of a process and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// How it ended.
    pub(crate) exit: Exit,
    /// What that means.
    pub(crate) meaning: Meaning,
    /// Of a [`Meaning::Failure`]: what it failed to do.
    why: String,
}

/// What became of the newest start of a unit that has no process any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// It gave a process, which has ended.
    Ended(End),
    /// It gave none.
    NotStarted {
        /// Why, for a person.
        why: String,
    },
}

/// What it means that a process ended with `exit` while it was about `doing`.
pub(crate) fn judge(exit: Exit, doing: Doing<'_>) -> End {
    let is_final = matches!(exit, Exit::Code(code) if FINAL.contains(&code));
    let (meaning, why) = match (doing, is_final) {
        // It may have refused anything while it stopped: it is asked again when it is started again.
        (Doing::Stop, _) => (Meaning::Asked, ""),
        (Doing::Work, true) => (Meaning::Refusal, ""),
        // It ended by itself before the signal came.
        (Doing::Die { why }, true) => (Meaning::Refusal, why),
        (Doing::Work, false) => (Meaning::Crash, ""),
        (Doing::Die { why }, false) => (Meaning::Failure, why),
    };
    End { exit, meaning, why: why.to_owned() }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exit, self.meaning) {
            // It was no child, but nobody else had a reason.
            (Exit::Unobserved, Meaning::Failure) => f.write_str("killed by SIGKILL")?,
            (exit, _) => exit.fmt(f)?,
        }
        match self.meaning {
            Meaning::Asked => f.write_str(", as asked"),
            Meaning::Crash if self.exit == Exit::Killed => f.write_str(" that somebody sent"),
            // Not by us.
            Meaning::Crash if self.exit == Exit::Signal(Signal::SIGKILL as i32) => {
                f.write_str(", perhaps out of memory")
            }
            Meaning::Crash | Meaning::Failure | Meaning::Refusal if self.why.is_empty() => Ok(()),
            Meaning::Crash | Meaning::Failure | Meaning::Refusal => write!(f, ": {}", self.why),
        }
    }
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(end) => end.fmt(f),
            Self::NotStarted { why } => write!(f, "not started: {why}"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::Killed => f.write_str("killed by SIGKILL"),
            Self::OutOfMemory => f.write_str("killed by SIGKILL of the kernel: out of memory"),
            Self::Unobserved => f.write_str("ended; an earlier supervisor started it, so how is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_means_what_the_table_says() {
        let frozen = Doing::Die { why: "frozen" };
        for (exit, doing, meaning, text) in [
            (Exit::Code(0), Doing::Work, Meaning::Crash, "exit 0"),
            (Exit::Code(1), Doing::Work, Meaning::Crash, "exit 1"),
            (Exit::Code(64), Doing::Work, Meaning::Refusal, "exit 64"),
            (Exit::Code(78), Doing::Work, Meaning::Refusal, "exit 78"),
            (Exit::Signal(11), Doing::Work, Meaning::Crash, "killed by SIGSEGV"),
            (Exit::Signal(9), Doing::Work, Meaning::Crash, "killed by SIGKILL, perhaps out of memory"),
            (
                Exit::OutOfMemory,
                Doing::Work,
                Meaning::Crash,
                "killed by SIGKILL of the kernel: out of memory",
            ),
            (Exit::Signal(9), frozen, Meaning::Failure, "killed by SIGKILL: frozen"),
            (Exit::Code(78), frozen, Meaning::Refusal, "exit 78: frozen"),
            (Exit::Code(78), Doing::Stop, Meaning::Asked, "exit 78, as asked"),
            (Exit::Signal(9), Doing::Stop, Meaning::Asked, "killed by SIGKILL, as asked"),
            (Exit::Killed, Doing::Work, Meaning::Crash, "killed by SIGKILL that somebody sent"),
            (Exit::Killed, frozen, Meaning::Failure, "killed by SIGKILL: frozen"),
            (Exit::Unobserved, frozen, Meaning::Failure, "killed by SIGKILL: frozen"),
            (
                Exit::Unobserved,
                Doing::Work,
                Meaning::Crash,
                "ended; an earlier supervisor started it, so how is not known",
            ),
        ] {
            let end = judge(exit, doing);
            assert_eq!((end.meaning, end.to_string().as_str()), (meaning, text), "{exit:?} {doing:?}");
        }
    }
}
