//! A session in a record: see [`crate::record`].

use super::{Session, State};
use crate::chunk::{self, Reader};
use crate::client::{Config, MAX_OUTPUT, Mode};
use crate::record::{RecordError, ensure};
use crate::url::Url;

/// Stands for what [`Session::check`] is given.
pub(super) fn no_config() -> Config {
    let url = Url { host: String::new(), port: 0, app: String::new(), stream: String::new() };
    Config::new(Mode::Publish, url)
}

impl Session {
    /// What reads messages, with those that are unfinished.
    pub fn reader(&self) -> &Reader {
        &self.link.reader
    }

    /// Takes `config`, that of the [first](Self::new) session, for its own and tells whether a session that comes from a record may go on
    /// within its limits. The chunk size stays what the server was told, if it was.
    pub fn check(&mut self, mut config: Config) -> Result<(), RecordError> {
        self.link.check(config.limits, MAX_OUTPUT)?;
        let chunk_size = self.link.output.chunk_size;
        match self.state {
            State::Handshake(_) | State::Connecting => {
                ensure(chunk_size == chunk::DEFAULT_CHUNK_SIZE, "chunk size")?;
                config.chunk_size = config.chunk_size.clamp(1, i32::MAX as u32);
            }
            State::Creating | State::Finished => config.chunk_size = chunk_size,
            State::Starting { msid } | State::Active { msid } => {
                ensure(msid > 0, "message stream")?;
                config.chunk_size = chunk_size;
            }
        }
        self.config = config;
        Ok(())
    }

    /// See [`Reader::restore_partials`].
    #[must_use]
    pub fn restore_partials(&mut self, bytes: &[u8]) -> bool {
        self.link.reader.restore_partials(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_no_session_leaves_is_an_error() {
        let mut config = no_config();
        config.chunk_size = 4096;
        let check = |damage: fn(&mut Session)| {
            let mut session = Session::new(config.clone()).unwrap();
            session.state = State::Active { msid: 1 };
            session.link.output.chunk_size = 60_000;
            damage(&mut session);
            let record = postcard::to_stdvec(&session).unwrap();
            let mut again: Session = postcard::from_bytes(&record).unwrap();
            again.check(config.clone()).map(|()| again.chunk_size())
        };
        assert_eq!(check(|_| {}), Ok(60_000));
        let damages: [fn(&mut Session); 5] = [
            |session| session.state = State::Active { msid: 0 },
            |session| session.state = State::Connecting,
            |session| session.link.output.chunk_size = 0,
            |session| session.link.output.bytes = vec![0; MAX_OUTPUT + (64 << 10) + 1],
            |session| session.link.count(usize::MAX),
        ];
        for (index, damage) in damages.into_iter().enumerate() {
            assert!(check(damage).is_err(), "{index}");
        }
    }
}
