//! Whose turn it is to write to the socket of a connection that plays several streams.
//!
//! Each player has a cursor of its own, and each cursor writes whole messages. So a cursor may write while no other is in the middle
//! of a message, and while no replies of the session wait at another: the answer to a play comes before its media.

use std::cell::Cell;

/// See the [module](self). Players are known by their message stream.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    /// In the middle of a message.
    half_sent: Cell<Option<u32>>,
    /// Has replies of the session.
    replies: Cell<Option<u32>>,
}

impl Outlet {
    /// Whether the player on `msid` has to wait for another.
    pub(crate) fn is_taken(&self, msid: u32) -> bool {
        let is_other = |taken: Option<u32>| taken.is_some_and(|taken| taken != msid);
        // Whoever is in the middle of a message goes first.
        match self.half_sent.get() {
            Some(half_sent) => half_sent != msid,
            None => is_other(self.replies.get()),
        }
    }

    /// Whether replies of the session wait at the player on `msid`.
    pub(crate) fn has_replies(&self, msid: u32) -> bool {
        self.replies.get() == Some(msid)
    }

    /// What the player on `msid` has left after it has written.
    pub(crate) fn note(&self, msid: u32, is_half_sent: bool, has_replies: bool) {
        for (taken, is_taken) in [(&self.half_sent, is_half_sent), (&self.replies, has_replies)] {
            if is_taken {
                taken.set(Some(msid));
            } else if taken.get() == Some(msid) {
                taken.set(None);
            }
        }
    }
}
