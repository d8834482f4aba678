//! Whether the target of a forward lives, and how far it is behind.
//!
//! The echo of a ping is the sign of life: it proves that the target's loop has read all that was sent before. Acknowledgements of TCP
//! prove less, since the kernel of a frozen process gives them too. They count only where an echo cannot be expected yet, because the
//! ping has not arrived, or waits in the target behind media that the target reads slowly, which a full socket on our side shows. So a slow
//! target that moves is kept, and one that takes nothing, or takes pings and answers none, is not.
//!
//! Servers of others need not answer pings at all. With them ([`Liveness::lenient`]) acknowledgements count until the first echo has come: then all
//! that is known is that their machine takes what it is sent.

use std::collections::VecDeque;

use cluster::stats::ForwardState;

/// Without a sign of life for this long a forwarder is stalled, ms.
const STALLED_AFTER: u64 = 2_000;
/// Without a sign of life for this long it connects again, ms.
pub(super) const DEAD_AFTER: u64 = 5_000;
/// Pings that wait for their echo at most: at four a second the 16 s of a slow target's full buffers. Beyond it none is sent.
const PINGS_MAX: usize = 64;

/// One connection to a target. Times are monotonic, ms.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Those without an echo, oldest first.
    pings: VecDeque<Ping>,
    /// Bytes of the connection that the target's kernel has acknowledged.
    acknowledged: u64,
    /// The last sign of life; 0 before the first.
    sign: u64,
    /// How long the last echo took, ms.
    took: Option<u64>,
    /// Until the first echo none is asked for.
    is_lenient: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    /// Stream time that it carries, ms.
    time: u64,
    sent_at: u64,
    /// Bytes of the connection before its end at most; unknown while it may wait for the socket.
    end: Option<u64>,
}

impl Liveness {
    pub(super) fn new() -> Self {
        Self { pings: VecDeque::new(), acknowledged: 0, sign: 0, took: None, is_lenient: false }
    }

    /// Of a target that may answer no ping ever.
    pub(super) fn lenient() -> Self {
        Self { is_lenient: true, ..Self::new() }
    }

    /// Whether acknowledgements are all there is.
    fn believes_acknowledgements(&self) -> bool {
        self.is_lenient && self.took.is_none()
    }

    fn has_arrived(&self, ping: &Ping) -> bool {
        ping.end.is_some_and(|end| end <= self.acknowledged)
    }

    /// Whether one more ping is to be sent.
    pub(super) fn wants_ping(&self) -> bool {
        // In place of one that is not waited for any more.
        let replaces = || {
            self.believes_acknowledgements() && self.pings.front().is_some_and(|ping| self.has_arrived(ping))
        };
        self.pings.len() < PINGS_MAX || replaces()
    }

    /// A ping that carries the stream time `time` was given to the connection.
    pub(super) fn handle_ping(&mut self, now: u64, time: u64) {
        if self.pings.len() >= PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back(Ping { time, sent_at: now, end: None });
    }

    /// The socket has taken all there was, `sent` bytes since the connection began.
    pub(super) fn handle_sent(&mut self, sent: u64) {
        for ping in self.pings.iter_mut().rev().take_while(|ping| ping.end.is_none()) {
            ping.end = Some(sent);
        }
    }

    /// The target's kernel has acknowledged `acknowledged` bytes of the connection; `blocked` when our socket takes no more.
    pub(super) fn handle_acknowledged(&mut self, now: u64, acknowledged: u64, blocked: bool) {
        let expects_echo = !self.believes_acknowledgements()
            && self.pings.front().is_some_and(|ping| self.has_arrived(ping))
            && !blocked;
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            if !expects_echo {
                self.sign = now;
            }
        }
    }

    /// An echo came; one that no ping waits for is none.
    pub(super) fn handle_echo(&mut self, now: u64, timestamp: u32) {
        #[expect(clippy::cast_possible_truncation, reason = "a ping carries 32 bits")]
        let found = self.pings.iter().position(|ping| ping.time as u32 == timestamp);
        if let Some(ping) = found.and_then(|index| self.pings.drain(..=index).next_back()) {
            self.sign = now;
            self.took = Some(now.saturating_sub(ping.sent_at));
        }
    }

    /// Connecting until the first echo, or the first sign where there may be none, then live or stalled.
    pub(super) fn state(&self, now: u64) -> ForwardState {
        match self.took {
            None if !(self.is_lenient && self.sign > 0) => ForwardState::Connecting,
            _ if self.silence(now) > STALLED_AFTER => ForwardState::Stalled,
            _ => ForwardState::Live,
        }
    }

    /// Whether the connection is to be given up.
    pub(super) fn is_dead(&self, now: u64) -> bool {
        self.silence(now) > DEAD_AFTER
    }

    /// What is not sent yet, `unsent` ms of stream time, and how long it takes to be read there; unknown before the first echo.
    pub(super) fn lag(&self, now: u64, unsent: u64) -> Option<u64> {
        let waiting = self.pings.front().map_or(0, |ping| now.saturating_sub(ping.sent_at));
        self.took.map(|took| unsent + waiting.max(took))
    }

    /// How long a sign of life has been due, ms. Nothing is due where nothing was asked.
    fn silence(&self, now: u64) -> u64 {
        let is_due = |ping: &&Ping| !(self.believes_acknowledgements() && self.has_arrived(ping));
        self.pings.iter().find(is_due).map_or(0, |ping| now.saturating_sub(ping.sent_at.max(self.sign)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ForwardState::{Connecting, Live, Stalled};

    /// A target at the end of a link, and what a forwarder does about it each 250 ms.
    struct Forward {
        liveness: Liveness,
        now: u64,
        sent: u64,
        acknowledged: u64,
    }

    const TICK: u64 = 250;

    impl Forward {
        fn new() -> Self {
            Self { liveness: Liveness::new(), now: 1_000_000, sent: 0, acknowledged: 0 }
        }

        /// One tick: `media` bytes are sent, with a ping before them, and `acknowledged` bytes are acknowledged.
        fn tick(&mut self, media: u64, acknowledged: u64, blocked: bool) {
            self.now += TICK;
            self.acknowledged = (self.acknowledged + acknowledged).min(self.sent);
            self.liveness.handle_acknowledged(self.now, self.acknowledged, blocked);
            if self.liveness.wants_ping() {
                self.liveness.handle_ping(self.now, self.now);
            }
            self.sent += media;
            if !blocked {
                self.liveness.handle_sent(self.sent);
            }
        }

        /// The echo of the oldest ping, which was sent that many ticks ago.
        fn echo(&mut self) {
            let time = self.liveness.pings.front().unwrap().time;
            self.liveness.handle_echo(self.now, time as u32);
        }

        fn state(&self) -> ForwardState {
            self.liveness.state(self.now)
        }

        fn is_dead(&self) -> bool {
            self.liveness.is_dead(self.now)
        }

        /// Ticks until it is given up, when each is like that; none within `most`.
        fn lives(&mut self, most: u64, media: u64, acknowledged: u64, blocked: bool) -> Option<u64> {
            (0..most).find(|_| {
                self.tick(media, acknowledged, blocked);
                self.is_dead()
            })
        }
    }

    #[test]
    fn a_target_that_echoes_is_live_and_its_lag_is_what_waits() {
        let mut forward = Forward::new();
        assert_eq!((forward.state(), forward.liveness.lag(forward.now, 0)), (Connecting, None));
        for _ in 0..100 {
            forward.tick(1_000, 1_000, false);
            forward.now += 20;
            forward.echo();
            assert_eq!((forward.state(), forward.liveness.lag(forward.now, 40)), (Live, Some(60)));
        }
        forward.tick(1_000, 1_000, false);
        assert_eq!(forward.liveness.lag(forward.now + 300, 0), Some(300));
    }

    #[test]
    fn a_frozen_target_whose_kernel_takes_everything_is_given_up_after_five_seconds() {
        let mut forward = Forward::new();
        forward.tick(1_000, 0, false);
        forward.echo();
        let begin = forward.now;
        assert!(forward.lives(100, 1_000, 1_000, false).is_some());
        assert!((5_000..=5_000 + 4 * TICK).contains(&(forward.now - begin)), "{}", forward.now - begin);
    }

    #[test]
    fn of_a_target_that_answers_no_ping_acknowledgements_are_signs_of_life_until_an_echo_comes() {
        let mut forward = Forward { liveness: Liveness::lenient(), ..Forward::new() };
        assert_eq!(forward.state(), Connecting);
        for _ in 0..1_000 {
            forward.tick(1_000, 1_000, false);
            assert!(!forward.is_dead());
        }
        assert_eq!((forward.state(), forward.liveness.lag(forward.now, 0)), (Live, None));
        // Pings alone, in a pause of the stream.
        assert_eq!(forward.lives(100, 20, 20, false), None);
        // It takes nothing any more.
        assert!(forward.lives(40, 1_000, 0, false).is_some());

        let mut forward = Forward { liveness: Liveness::lenient(), ..Forward::new() };
        for _ in 0..100 {
            forward.tick(1_000, 1_000, false);
        }
        // One that has answered once is asked for more.
        forward.echo();
        assert!(forward.lives(100, 1_000, 1_000, false).is_some());
    }

    #[test]
    fn a_target_that_takes_nothing_is_stalled_then_given_up() {
        let mut forward = Forward::new();
        forward.tick(1_000, 0, false);
        forward.echo();
        forward.tick(300_000, 0, false);
        for _ in 0..8 {
            forward.tick(0, 0, true);
        }
        assert_eq!((forward.state(), forward.is_dead()), (Live, false));
        forward.tick(0, 0, true);
        assert_eq!((forward.state(), forward.is_dead()), (Stalled, false));
        assert!(forward.lives(13, 0, 0, true).is_some());
    }

    #[test]
    fn a_slow_target_is_kept_while_a_ping_waits_behind_bytes_that_move() {
        let mut forward = Forward::new();
        // One burst in the kernel, nothing behind it, 40 kB/s: 25 s.
        forward.tick(1_000_000, 0, false);
        assert_eq!(forward.lives(99, 0, 10_000, false), None);
        assert_eq!(forward.state(), Connecting, "nothing has been proved");
        // All has arrived; now an echo is due.
        assert!(forward.lives(30, 0, 10_000, false).is_some());
    }

    #[test]
    fn a_slow_target_is_kept_while_our_socket_is_full_and_bytes_move() {
        let mut forward = Forward::new();
        forward.tick(10_000, 0, false);
        forward.sent = u64::MAX;
        assert_eq!(forward.lives(1_000, 0, 1, true), None);
        forward.echo();
        assert_eq!(forward.state(), Live, "the oldest ping is remembered, however long its echo took");
    }

    #[test]
    fn nothing_is_due_where_nothing_was_asked() {
        let mut liveness = Liveness::new();
        assert!(!liveness.is_dead(3_600_000));
        liveness.handle_ping(3_600_000, 7);
        assert!(!liveness.is_dead(3_605_000));
        assert!(liveness.is_dead(3_605_001));
    }

    #[test]
    fn an_echo_nobody_waits_for_proves_nothing() {
        let mut forward = Forward::new();
        forward.liveness.handle_echo(forward.now, 0);
        assert_eq!(forward.state(), Connecting);
    }
}
