//! What follows the end of a worker. Pure: ends in, decisions out.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use control::service::{EX_CONFIG, EX_OSERR, EX_RENEW, EX_SOFTWARE, EX_USAGE};
use nix::sys::signal::Signal;

/// A worker that the system refused something this soon would be refused it again.
const REFUSED_EARLY: Duration = Duration::from_secs(1);
/// So many deaths within [`DEATHS_WITHIN`] may be caused by what the workers leave to each other.
const DEATHS: usize = 3;
/// See [`DEATHS`]; a worker that was started cold and dies sooner has another cause.
const DEATHS_WITHIN: Duration = Duration::from_secs(60);

/// So many deaths within [`TRIAL`] are the new program's fault.
const TRIAL_DEATHS: u32 = 2;
/// So long a program is on trial: behind it the one before is not gone back to.
const TRIAL: Duration = Duration::from_secs(10);

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Exit(u8),
    Signal(i32),
}

impl End {
    pub(super) fn of(code: Option<i32>, signal: Option<i32>) -> Self {
        let code = code.map(|code| u8::try_from(code).unwrap_or(EX_SOFTWARE));
        signal.map_or_else(|| Self::Exit(code.unwrap_or(EX_SOFTWARE)), Self::Signal)
    }

    /// As an exit code, in the way of a shell.
    pub(super) fn code(self) -> u8 {
        match self {
            // Both have ended, and nobody goes on.
            Self::Exit(EX_RENEW) => 0,
            Self::Exit(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(EX_SOFTWARE),
        }
    }
}

/// In the words that the supervisor has for the end of a process.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

/// What follows the end of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The keeper ends too, with this code.
    End(u8),
    /// The keeper ends: this port needs another start than it can give.
    GiveUp,
    Worker {
        is_cold: bool,
    },
    /// The keeper becomes the program that it was given.
    Program,
    /// The keeper becomes the program that it was before.
    Return,
}

/// The deaths of workers, as far as they decide what follows.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// The newest, at most [`DEATHS`].
    recent: VecDeque<Instant>,
    /// The worker that lives was started cold.
    is_cold: bool,
    /// The program is on trial: since when, and how many have died.
    trial: Option<(Instant, u32)>,
}

impl Deaths {
    /// None yet; of a program that is on trial `since` then.
    pub(super) fn of(since: Option<Instant>) -> Self {
        Self { trial: since.map(|since| (since, 0)), ..Self::default() }
    }

    /// Takes the end at `now` of a worker that lived for `lived`.
    pub(super) fn handle_end(&mut self, now: Instant, lived: Duration, end: End) -> Next {
        if end == End::Exit(EX_RENEW) {
            return Next::Program;
        }
        if self.is_failed(now, lived, end) {
            return Next::Return;
        }
        match end {
            // The next one would end the same way.
            End::Exit(code @ (0 | EX_USAGE | EX_CONFIG)) => return Next::End(code),
            End::Exit(EX_OSERR) if lived < REFUSED_EARLY => return Next::End(EX_OSERR),
            End::Exit(_) | End::Signal(_) => {}
        }
        if std::mem::take(&mut self.is_cold) && lived < DEATHS_WITHIN {
            return Next::GiveUp;
        }
        self.recent.retain(|death| now.saturating_duration_since(*death) < DEATHS_WITHIN);
        self.recent.push_back(now);
        if self.recent.len() >= DEATHS {
            self.recent.clear();
            self.is_cold = true;
        }
        Next::Worker { is_cold: self.is_cold }
    }

    /// The same of a worker that was to be replaced. That is no death: whoever asks for it decides how often. But one that had made place
    /// already has ended for that, and a program on trial that freezes is as bad as one that dies.
    pub(super) fn handle_replacement(&mut self, now: Instant, lived: Duration, end: End) -> Next {
        match end {
            End::Exit(EX_RENEW) => Next::Program,
            _ if self.is_failed(now, lived, end) => Next::Return,
            _ => Next::Worker { is_cold: false },
        }
    }

    /// Whether this end shows that a program on trial is of no use.
    fn is_failed(&mut self, now: Instant, lived: Duration, end: End) -> bool {
        let Some((since, died)) = &mut self.trial else { return false };
        if now.saturating_duration_since(*since) >= TRIAL {
            self.trial = None;
            return false;
        }
        let failed = match end {
            End::Exit(0) => return false,
            // The next one would end the same way.
            End::Exit(EX_USAGE | EX_CONFIG) => true,
            End::Exit(EX_OSERR) => lived < REFUSED_EARLY,
            End::Exit(_) | End::Signal(_) => false,
        };
        *died += 1;
        let failed = failed || *died >= TRIAL_DEATHS;
        if failed {
            self.trial = None;
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const KILLED: End = End::Signal(9);

    fn after(deaths: &mut Deaths, start: Instant, at: u32, lived: u32) -> Next {
        deaths.handle_end(start + SECOND * at, SECOND * lived, KILLED)
    }

    #[test]
    fn an_end_that_would_come_again_is_the_keepers_too_and_any_other_is_a_death() {
        for (end, lived, next) in [
            (End::Exit(0), 9, Next::End(0)),
            (End::Exit(64), 9, Next::End(64)),
            (End::Exit(78), 9, Next::End(78)),
            (End::Exit(71), 0, Next::End(71)),
            (End::Exit(71), 1, Next::Worker { is_cold: false }),
            (End::Exit(70), 0, Next::Worker { is_cold: false }),
            (End::Exit(101), 0, Next::Worker { is_cold: false }),
            (KILLED, 0, Next::Worker { is_cold: false }),
        ] {
            let is = Deaths::default().handle_end(Instant::now(), SECOND * lived, end);
            assert_eq!(is, next, "{end:?} after {lived} s");
        }
    }

    #[test]
    fn three_deaths_in_a_minute_start_cold_and_one_more_within_a_minute_ends_the_keeper() {
        let (mut deaths, start) = (Deaths::default(), Instant::now());
        assert_eq!(after(&mut deaths, start, 0, 0), Next::Worker { is_cold: false });
        assert_eq!(after(&mut deaths, start, 30, 30), Next::Worker { is_cold: false });
        assert_eq!(after(&mut deaths, start, 59, 29), Next::Worker { is_cold: true });
        assert_eq!(after(&mut deaths, start, 118, 59), Next::GiveUp);
    }

    #[test]
    fn a_cold_start_that_lived_for_a_minute_and_deaths_far_apart_are_nothing_special() {
        let (mut deaths, start) = (Deaths::default(), Instant::now());
        for at in 0..3 {
            after(&mut deaths, start, at, 1);
        }
        assert_eq!(after(&mut deaths, start, 62, 60), Next::Worker { is_cold: false });
        for death in 5..50 {
            assert_eq!(after(&mut deaths, start, death * 30, 30), Next::Worker { is_cold: false });
        }
    }

    #[test]
    fn two_deaths_within_10_s_or_one_refusal_send_a_program_on_trial_back_once() {
        let start = Instant::now();
        let mut on_trial = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        assert_eq!(on_trial.handle_end(start, SECOND, End::Exit(EX_RENEW)), Next::Program);
        assert_eq!(after(&mut on_trial, start, 1, 1), Next::Worker { is_cold: false });
        assert_eq!(after(&mut on_trial, start, 9, 8), Next::Return);
        assert_eq!(
            after(&mut on_trial, start, 9, 0),
            Next::Worker { is_cold: false },
            "it is not there any more"
        );
        let mut proven = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        assert_eq!(after(&mut proven, start, 9, 9), Next::Worker { is_cold: false });
        assert_eq!(after(&mut proven, start, 10, 1), Next::Worker { is_cold: false });
        for code in [EX_USAGE, EX_CONFIG, EX_OSERR] {
            let mut refuses = Deaths { trial: Some((start, 0)), ..Deaths::default() };
            assert_eq!(refuses.handle_end(start, Duration::ZERO, End::Exit(code)), Next::Return);
        }
        let mut ends = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        assert_eq!(ends.handle_end(start, Duration::ZERO, End::Exit(0)), Next::End(0));
    }

    #[test]
    fn a_replacement_is_no_death_and_hides_neither_a_renewal_nor_a_program_that_freezes() {
        let start = Instant::now();
        let mut proven = Deaths::default();
        for at in 0..9 {
            let next = proven.handle_replacement(start + SECOND * at, SECOND, KILLED);
            assert_eq!(next, Next::Worker { is_cold: false });
        }
        assert_eq!(proven.handle_replacement(start, SECOND, End::Exit(EX_RENEW)), Next::Program);
        let mut on_trial = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        let frozen = |deaths: &mut Deaths, at| deaths.handle_replacement(start + SECOND * at, SECOND, KILLED);
        assert_eq!(frozen(&mut on_trial, 4), Next::Worker { is_cold: false });
        assert_eq!(frozen(&mut on_trial, 8), Next::Return);
    }

    #[test]
    fn ends_are_told_in_words_and_as_codes() {
        let told = |code, signal| {
            let end = End::of(code, signal);
            (end.to_string(), end.code())
        };
        assert_eq!(told(Some(70), None), ("exit 70".to_owned(), 70));
        assert_eq!(told(None, Some(15)), ("killed by SIGTERM".to_owned(), 143));
        assert_eq!(End::Exit(EX_RENEW).code(), 0, "nobody goes on");
        assert_eq!(told(None, Some(34)), ("killed by signal 34".to_owned(), 162));
    }
}
