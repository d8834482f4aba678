//! A publisher: frames of a file in real time, each video frame with the time it was sent.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rtmp::chunk;
use rtmp::client::{Event, Mode, Session};

use crate::engine::{Client, Now, micros};
use crate::load::{Load, Target};
use crate::play::{Meter, config, reason};
use crate::report::Tally;
use crate::source::Source;
use crate::stamp;

/// Bytes that may wait for the server, beyond which it has plainly stopped reading.
const MAX_BACKLOG: usize = 8 << 20;

/// One publisher.
pub(crate) struct Publisher {
    session: Session,
    source: Rc<Source>,
    /// When the file began this time round, once publish was accepted.
    start: Option<Instant>,
    /// Milliseconds of the rounds before.
    offset: u32,
    next: usize,
    meter: Meter,
    stamped: Vec<u8>,
}

impl Publisher {
    pub(crate) fn new(
        load: &Load,
        target: &Target,
        index: u32,
        source: Rc<Source>,
    ) -> Result<Self, rtmp::client::Error> {
        let session = Session::new(config(Mode::Publish, load, target, index))?;
        Ok(Self {
            session,
            source,
            start: None,
            offset: 0,
            next: 0,
            meter: Meter::default(),
            stamped: Vec::new(),
        })
    }
}

impl Client for Publisher {
    fn handle_connected(&mut self, output: &mut Vec<u8>) {
        output.append(self.session.output());
    }

    fn handle_input(
        &mut self,
        mut input: &[u8],
        now: Now,
        _: &mut Tally,
        output: &mut Vec<u8>,
    ) -> Result<(), String> {
        while let Some(event) = self.session.handle_input(&mut input).map_err(|e| reason(&e))? {
            if event == Event::Started {
                self.start = Some(now.mono);
            }
        }
        output.append(self.session.output());
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let frame = self.source.frames().get(self.next)?;
        Some(self.start? + Duration::from_millis(u64::from(frame.time)))
    }

    fn handle_timeout(&mut self, now: Now, tally: &mut Tally, output: &mut Vec<u8>) -> Result<(), String> {
        while let Some(due) = self.poll_timeout().filter(|&due| due <= now.mono) {
            let Some(frame) = self.source.frames().get(self.next) else { break };
            let payload = match frame.length_size {
                Some(length_size) => {
                    self.stamped.clear();
                    stamp::put(&mut self.stamped, &frame.payload, length_size, now.wall);
                    &self.stamped
                }
                None => &frame.payload[..],
            };
            let before = output.len();
            let time = self.offset.wrapping_add(frame.time);
            let (chunk_size, msid) = (self.session.chunk_size(), self.session.msid());
            chunk::put_full(output, chunk_size, frame.csid, time, frame.type_id, msid, payload);
            let sent = output.len() - before;
            tally.bytes += sent as u64;
            tally.lag.record(micros(now.mono.duration_since(due)));
            self.meter.add(sent, now.mono);
            self.next += 1;
            if self.next == self.source.frames().len() {
                self.next = 0;
                self.offset = self.offset.wrapping_add(self.source.length());
                self.start =
                    self.start.map(|start| start + Duration::from_millis(u64::from(self.source.length())));
            }
        }
        if output.len() > MAX_BACKLOG {
            return Err(format!("the server does not read: {} MiB wait", MAX_BACKLOG >> 20));
        }
        Ok(())
    }

    fn is_accepted(&self) -> bool {
        self.start.is_some()
    }

    fn finish(&self, now: Now, tally: &mut Tally) {
        if let Some(rate) = self.meter.rate(now.mono) {
            tally.bitrate.record(rate);
        }
    }
}
