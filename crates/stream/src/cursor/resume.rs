//! A cursor that goes on in another process: with what was committed last, and how many bytes were sent since.

use super::{Cursor, Impossible, Log, Position, State};

impl Cursor {
    /// The cursor that `state` was taken from, on the same log, when it had sent `before` bytes; it has sent `more` since. It is to be
    /// committed before the log moves on.
    ///
    /// # Errors
    /// Where the log has not had what the state names, or the reader cannot have been sent so much.
    pub fn resume_at(state: State, before: u64, more: u64, log: &Log) -> Result<Self, Impossible> {
        let bytes_sent = before.saturating_add(more);
        let mut cursor = Self { state, hold: None, bytes_sent, skips: 0, is_changed: true };
        cursor.move_on(more, log)?;
        match cursor.state.place {
            // One that the log has left behind asks for no barrier.
            Position::At { offset, barrier }
                if offset > log.end() || (offset >= log.floor() && !log.comes_next(barrier, offset)) =>
            {
                Err(Impossible)
            }
            _ => Ok(cursor),
        }
    }

    /// Whether what was [committed](super::Wire::commit) last is not true any more.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// It is committed by somebody else.
    pub fn set_committed(&mut self) {
        self.is_changed = false;
    }

    fn move_on(&mut self, mut sent: u64, log: &Log) -> Result<(), Impossible> {
        let owed = self.state.private.len().checked_sub(self.state.sent).ok_or(Impossible)? as u64;
        if sent < owed {
            self.state.sent += usize::try_from(sent).map_err(|_| Impossible)?;
            if let Some((from, to)) = self.state.held {
                self.hold = Some(log.hold(from, to).ok_or(Impossible)?);
            }
            return Ok(());
        }
        sent -= owed;
        if owed > 0 {
            self.forget_private();
        }
        if let Some((from, to)) = self.state.held.take() {
            let taken = sent.min(to.checked_sub(from).ok_or(Impossible)?);
            sent -= taken;
            if from + taken < to {
                self.hold = Some(log.hold(from + taken, to).ok_or(Impossible)?);
                self.note_hold();
            }
        }
        match self.state.place {
            _ if sent == 0 => Ok(()),
            Position::At { offset, barrier } => {
                let reached = offset.checked_add(sent).ok_or(Impossible)?;
                let limit = log.barrier_at(barrier).map_or_else(|| log.end(), |next| next.offset);
                if reached > limit {
                    return Err(Impossible);
                }
                self.state.place = Position::At { offset: reached, barrier };
                // One that the log has left behind is between two messages: what is held of one is committed.
                if reached >= log.floor() {
                    self.finish_message(log, reached, barrier);
                }
                Ok(())
            }
            Position::Waiting { .. } | Position::Paused(_) => Err(Impossible),
        }
    }
}
