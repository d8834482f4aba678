//! A session in a record: see [`crate::record`].

use super::streams::Activity;
use super::{Session, State};
use crate::chunk::{self, Reader};
use crate::handshake::PACKET;
use crate::record::{RecordError, ensure};
use crate::server::key::{MAX_KEY, check_text};
use crate::server::{Config, MAX_OUTPUT};

impl Session {
    /// What reads messages, with those that are unfinished.
    pub fn reader(&self) -> &Reader {
        &self.link.reader
    }

    /// Takes the limits of `config` for its own and tells whether a session that comes from a record may go on within them. The chunk
    /// size stays what the client was told, if it was.
    pub fn check(&mut self, config: Config) -> Result<(), RecordError> {
        self.link.check(config.limits, MAX_OUTPUT)?;
        let is_connected = self.is_connected();
        if !is_connected {
            self.chunk_size = config.chunk_size.clamp(1, i32::MAX as u32);
        }
        let chunk_size = if is_connected { self.chunk_size } else { chunk::DEFAULT_CHUNK_SIZE };
        ensure(self.link.output.chunk_size == chunk_size, "chunk size")?;
        match &self.state {
            State::Handshake(progress) => {
                ensure(progress.is_valid(), "handshake")?;
                ensure(progress.received() as u64 == self.link.received(), "bytes of the handshake")?;
            }
            State::AwaitConnect => {}
            State::Connected { app } => {
                ensure(app.len() <= MAX_KEY && check_text(app).is_ok(), "application")?;
            }
        }
        ensure(self.s1.as_ref().is_none_or(|s1| s1.len() == PACKET), "S1")?;
        self.streams.check(is_connected)?;
        let is_asked = |msid| matches!(self.streams.find(msid), Some(Activity::PlayAsked { .. }));
        ensure(self.pending.asking().is_none_or(is_asked), "play still to come")
    }

    /// See [`Reader::restore_partials`].
    #[must_use]
    pub fn restore_partials(&mut self, bytes: &[u8]) -> bool {
        self.link.reader.restore_partials(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pending::Pending;
    use super::super::streams::Wants;
    use super::*;
    use crate::handshake::ServerHandshake;
    use crate::server::StreamKey;

    fn connected() -> Session {
        let mut session = Session::new(Config::default());
        session.state = State::Connected { app: "live".into() };
        session.link.output.chunk_size = session.chunk_size;
        session.s1 = Some([0; PACKET].into());
        session
    }

    fn key() -> StreamKey {
        "live/s".parse().unwrap()
    }

    fn check(session: &Session) -> Result<(), RecordError> {
        let record = postcard::to_stdvec(session).unwrap();
        postcard::from_bytes::<Session>(&record).unwrap().check(Config::default())
    }

    #[test]
    fn a_record_that_no_session_leaves_is_an_error() {
        let damages: [fn(&mut Session); 14] = [
            |session| session.link.output.chunk_size = 128,
            |session| (session.chunk_size, session.link.output.chunk_size) = (0, 0),
            |session| session.link.output.bytes = vec![0; MAX_OUTPUT + (64 << 10) + 1],
            |session| session.link.count(usize::MAX),
            |session| session.s1 = Some([0; 4].into()),
            |session| session.state = State::AwaitConnect,
            |session| session.state = State::Connected { app: "a\0".into() },
            |session| session.state = State::Connected { app: "a".repeat(MAX_KEY + 1).into() },
            |session| session.state = State::Handshake(ServerHandshake::default()),
            |session| {
                *session = Session::new(Config::default());
                session.streams.ask(1, Activity::Publishing, key());
            },
            |session| {
                *session = Session::new(Config::default());
                session.link.count(1);
            },
            |session| {
                *session = Session::new(Config::default());
                let packets = [3; PACKET + 1];
                session.link.count(packets.len());
                session.state = State::Handshake(ServerHandshake::AwaitC1(packets.into()));
            },
            |session| {
                (0..=crate::server::MAX_ACTIVE as u32)
                    .for_each(|msid| session.streams.ask(msid, Activity::Playing, key()));
            },
            |session| session.pending = Pending::play(1, key(), None, Wants { audio: true, video: true }),
        ];
        assert_eq!(check(&connected()), Ok(()));
        for (index, damage) in damages.iter().enumerate() {
            let mut session = connected();
            damage(&mut session);
            assert!(check(&session).is_err(), "{index}");
        }
    }
}
