//! Commands of a client (RTMP 1.0, section 7.2), and those of FMLE that every encoder uses.

use super::pending::Pending;
use super::streams::Wants;
use super::{Activity, Session, State};
use crate::amf0::Value;
use crate::link::Command;
use crate::server::key::{MAX_KEY, check_text, without_params};
use crate::server::reply::{self, Asked};
use crate::server::{Auth, Error, Event, KeyError, MAX_ACTIVE, StreamKey};

/// Longest `srsctlTarget` and `srsctlTag` that are looked at, bytes. The tag has 64.
const MAX_AUTH: usize = 256;

/// The shortest length of a play that is taken for milliseconds.
const SHORTEST: f64 = 1_000.0;

impl Session {
    pub(super) fn handle_command(&mut self, msid: u32, command: &Command) -> Result<Option<Event>, Error> {
        if !self.is_connected() {
            return if command.name == "connect" { self.handle_connect(command).map(Some) } else { Ok(None) };
        }
        let transaction = command.transaction;
        let output = &mut self.link.output;
        match &*command.name {
            "connect" => return Err(Error::ConnectTwice),
            "createStream" => reply::result(output, transaction, f64::from(self.streams.create()).into()),
            "publish" => return Ok(self.handle_publish(msid, command)),
            "play" => return Ok(self.handle_play(msid, command)),
            "releaseStream" => reply::result(output, transaction, Value::Undefined),
            "FCPublish" => {
                self.fc_publish = true;
                reply::result(output, transaction, Value::Undefined);
            }
            "FCUnpublish" => {
                let key = self.key(command.value(1)).ok();
                let output = &mut self.link.output;
                match self.streams.publisher_of(key.as_ref()) {
                    Some(msid) => {
                        reply::publish_stopped(output, msid, transaction);
                        return Ok(self.stop(msid));
                    }
                    None => reply::result(output, transaction, Value::Undefined),
                }
            }
            "deleteStream" => {
                let named = command.value(1).and_then(Value::as_number).map(|id| id as u32);
                let msid = named.or_else(|| self.streams.active(msid));
                return Ok(msid.and_then(|msid| {
                    self.streams.delete(msid);
                    self.stop(msid)
                }));
            }
            // Its stream is the one of the message; some clients put 0 there.
            "closeStream" => return Ok(self.streams.active(msid).and_then(|msid| self.stop(msid))),
            "getStreamLength" => reply::result(output, transaction, 0.0.into()),
            "pause" | "pauseRaw" | "pauseraw" => {
                if let Some(msid) = self.streams.playing(msid) {
                    let on = command.value(1).and_then(Value::as_bool).unwrap_or(true);
                    reply::paused(output, msid, on);
                    return Ok(Some(Event::Pause { msid, on }));
                }
            }
            "seek" => {
                if let Some(msid) = self.streams.playing(msid) {
                    const DESCRIPTION: &str = "A live stream cannot seek.";
                    reply::on_status(output, msid, "status", "NetStream.Seek.Notify", DESCRIPTION);
                }
            }
            "receiveAudio" | "receiveVideo" => {
                let on = command.value(1).and_then(Value::as_bool).unwrap_or(true);
                let playing = self.streams.playing(msid);
                let meant = playing.unwrap_or_else(|| self.streams.meant(msid));
                let wants = self.streams.wants(meant);
                return Ok(match &*command.name {
                    "receiveAudio" => {
                        self.streams.want(meant, Wants { audio: on, ..wants });
                        playing.map(|msid| Event::ReceiveAudio { msid, on })
                    }
                    _ => {
                        self.streams.want(meant, Wants { video: on, ..wants });
                        playing.map(|msid| Event::ReceiveVideo { msid, on })
                    }
                });
            }
            // Answers, and calls that have none.
            "play2" | "_result" | "_error" | "onStatus" | "close" => {}
            // FCSubscribe, _checkbw and whatever else waits for an answer before it goes on.
            _ => reply::result(output, transaction, Value::Null),
        }
        Ok(None)
    }

    fn handle_connect(&mut self, command: &Command) -> Result<Event, Error> {
        let property = |name| command.value(0).and_then(|object| object.field(name));
        let text = |name| property(name).and_then(Value::as_str).unwrap_or_default();
        let app = match without_params(text("app")) {
            "" => app_of(text("tcUrl")),
            app => app,
        };
        let error = match app {
            app if app.len() > MAX_KEY => Some(KeyError::TooLong(app.len())),
            app => check_text(app).err(),
        };
        if let Some(error) = error {
            let code = "NetConnection.Connect.InvalidApp";
            reply::connect_refused(&mut self.link.output, command.transaction, code, &error.to_string());
            return Err(error.into());
        }
        let auth = match [text("srsctlTarget"), text("srsctlTag"), text("srsctlClock")] {
            ["", _, _] | [_, "", _] => None,
            claims if claims.iter().any(|claim| claim.len() > MAX_AUTH) => None,
            claims => {
                let [target, tag, clock] = claims.map(str::to_owned);
                Some(Auth { target, tag, clock })
            }
        };
        let asked = Asked {
            transaction: command.transaction,
            object_encoding: property("objectEncoding").and_then(Value::as_number).unwrap_or_default(),
            enhanced: ["fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"]
                .iter()
                .any(|name| property(name).is_some()),
        };
        reply::connected(&mut self.link.output, &asked, self.chunk_size);
        self.state = State::Connected { app: app.into() };
        Ok(Event::Connected { app: app.to_owned(), auth })
    }

    fn handle_publish(&mut self, msid: u32, command: &Command) -> Option<Event> {
        let msid = self.streams.meant(msid);
        if names_nothing(command.value(1), self.streams.find(msid)) {
            if self.streams.find(msid) == Some(Activity::Publishing) {
                reply::unpublished(&mut self.link.output, msid);
            }
            return self.stop(msid);
        }
        let codes = ["NetStream.Publish.BadName"; 2];
        Some(match self.asked_stream(msid, command, codes) {
            Some(stream) => {
                self.streams.ask(msid, Activity::PublishAsked, stream.clone());
                Event::Publish { msid, stream }
            }
            None => Event::Refused,
        })
    }

    fn handle_play(&mut self, msid: u32, command: &Command) -> Option<Event> {
        let msid = self.streams.meant(msid);
        if names_nothing(command.value(1), self.streams.find(msid)) {
            if self.streams.find(msid) == Some(Activity::Playing) {
                reply::play_stopped(&mut self.link.output, msid);
            }
            return self.stop(msid);
        }
        let number = |index| command.value(index).and_then(Value::as_number);
        let length = length(number(2), number(3));
        let resets = command.value(4).and_then(Value::as_bool).unwrap_or(true);
        // Who goes from stream to stream may leave the ones before as they are.
        let is_full = self.streams.find(msid).is_none() && !self.streams.has_room();
        let gives_way = is_full.then(|| self.streams.longest_playing()).flatten();
        let stopped = gives_way.filter(|_| self.key(command.value(1)).is_ok()).and_then(|msid| {
            reply::play_stopped(&mut self.link.output, msid);
            self.stop(msid)
        });
        let codes = ["NetStream.Play.StreamNotFound", "NetStream.Play.Failed"];
        let Some(stream) = self.asked_stream(msid, command, codes) else {
            return stopped.or(Some(Event::Refused));
        };
        self.streams.ask(msid, Activity::PlayAsked { resets }, stream.clone());
        self.pending = Pending::play(msid, stream, length, self.streams.wants(msid));
        stopped.or_else(|| self.pending.pop())
    }

    /// The stream a publish or play names. When it names none, or too many are active, the client is told with the first or the second
    /// code on its message stream, which does what it did before.
    fn asked_stream(
        &mut self,
        msid: u32,
        command: &Command,
        [no_name, no_room]: [&str; 2],
    ) -> Option<StreamKey> {
        let (code, description) = match self.key(command.value(1)) {
            Ok(_) if self.streams.find(msid).is_none() && !self.streams.has_room() => {
                (no_room, format!("{MAX_ACTIVE} streams are active on this connection, the limit"))
            }
            Ok(key) => return Some(key),
            Err(error) => (no_name, error.to_string()),
        };
        reply::on_status(&mut self.link.output, msid, "error", code, &description);
        None
    }

    /// The stream that a command names.
    fn key(&self, name: Option<&Value>) -> Result<StreamKey, KeyError> {
        let State::Connected { app } = &self.state else { return Err(KeyError::Incomplete) };
        StreamKey::parse(app, name.and_then(Value::as_str).unwrap_or_default())
    }

    /// Ends what `msid` does, if anything.
    fn stop(&mut self, msid: u32) -> Option<Event> {
        Some(match self.streams.stop(msid)? {
            Activity::PublishAsked | Activity::Publishing => Event::Unpublish { msid },
            Activity::PlayAsked { .. } | Activity::Playing => Event::StopPlay { msid },
        })
    }
}

/// Whether a publish or play ends what its message stream does: its name is `false` or null, or empty where the stream is
/// active. Else an empty name may stand behind an app that holds the whole address.
fn names_nothing(name: Option<&Value>, activity: Option<Activity>) -> bool {
    match name {
        Some(Value::Boolean(false) | Value::Null | Value::Undefined) => true,
        Some(Value::String(name)) => name.is_empty() && activity.is_some(),
        _ => false,
    }
}

/// How much a play asks for, ms. `start` chooses between live and recorded, and all is live here; but it tells the unit. The
/// specification has seconds (RTMP 1.0, section 7.2.2.1), and most clients send milliseconds: FFmpeg -2000 for -2, librtmp
/// a length of 10 000 for 10 s. So a length is in seconds if `start` is the specification's -1 or -2, or if it is too short
/// to be meant in milliseconds.
fn length(start: Option<f64>, length: Option<f64>) -> Option<u64> {
    let length = length.filter(|length| length.is_finite() && *length > 0.0)?;
    let is_seconds = start.is_some_and(|start| start == -1.0 || start == -2.0) || length < SHORTEST;
    Some(if is_seconds { length * 1_000.0 } else { length } as u64)
}

/// The application a tcUrl names: its path.
fn app_of(tc_url: &str) -> &str {
    let rest = tc_url.split_once("://").map_or(tc_url, |(_, rest)| rest);
    without_params(rest.split_once('/').map_or("", |(_, path)| path))
}
