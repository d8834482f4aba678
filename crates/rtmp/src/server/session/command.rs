//! Commands of a client (RTMP 1.0, section 7.2), and those of FMLE that every encoder uses.

use super::{Activity, Session, State};
use crate::amf0::Value;
use crate::link::Command;
use crate::server::key::{MAX_KEY, check_text, without_params};
use crate::server::reply::{self, Asked};
use crate::server::{Auth, Error, Event, KeyError, MAX_STREAMS, StreamKey};

/// Longest `srsctlTarget` and `srsctlTag` that are looked at, bytes. The tag has 64.
const MAX_AUTH: usize = 256;

impl Session {
    pub(super) fn handle_command(&mut self, msid: u32, command: &Command) -> Result<Option<Event>, Error> {
        let Some(activity) = self.activity() else {
            return if command.name == "connect" { self.handle_connect(command).map(Some) } else { Ok(None) };
        };
        let transaction = command.transaction;
        let output = &mut self.link.output;
        match &*command.name {
            "connect" => return Err(Error::ConnectTwice),
            "createStream" => {
                let free = (!self.streams).trailing_zeros();
                if free >= MAX_STREAMS {
                    return Err(Error::TooManyStreams);
                }
                self.streams |= 1 << free;
                reply::result(output, transaction, f64::from(free + 1).into());
            }
            "publish" => return self.handle_publish(msid, command).map(Some),
            "play" => return self.handle_play(msid, command).map(Some),
            "releaseStream" => reply::result(output, transaction, Value::Undefined),
            "FCPublish" => {
                self.fc_publish = true;
                reply::result(output, transaction, Value::Undefined);
            }
            "FCUnpublish" => match activity {
                Activity::PublishAsked { msid } | Activity::Publishing { msid } => {
                    reply::publish_stopped(output, msid, transaction);
                    return Ok(self.stop());
                }
                _ => reply::result(output, transaction, Value::Undefined),
            },
            "deleteStream" => {
                let named = command.value(1).and_then(Value::as_number).map(|id| id as u32);
                if let Some(bit) = named.and_then(|id| id.checked_sub(1)).filter(|&bit| bit < MAX_STREAMS) {
                    self.streams &= !(1 << bit);
                }
                if named.is_none() || named == activity.msid() {
                    return Ok(self.stop());
                }
            }
            // Its stream is the one of the message; some clients put 0 there.
            "closeStream" if msid == 0 || Some(msid) == activity.msid() => return Ok(self.stop()),
            "getStreamLength" => reply::result(output, transaction, 0.0.into()),
            "pause" | "pauseRaw" | "pauseraw" => {
                if let Activity::Playing { msid } = activity {
                    let pause = command.value(1).and_then(Value::as_bool).unwrap_or(true);
                    reply::paused(output, msid, pause);
                    return Ok(Some(Event::Pause(pause)));
                }
            }
            "seek" => {
                if let Activity::Playing { msid } = activity {
                    reply::on_status(
                        output,
                        msid,
                        "status",
                        "NetStream.Seek.Notify",
                        "A live stream cannot seek.",
                    );
                }
            }
            "receiveAudio" | "receiveVideo" => {
                let on = command.value(1).and_then(Value::as_bool).unwrap_or(true);
                let audio = command.name == "receiveAudio";
                return Ok(matches!(activity, Activity::Playing { .. }).then_some(if audio {
                    Event::ReceiveAudio(on)
                } else {
                    Event::ReceiveVideo(on)
                }));
            }
            // Answers, and calls that have none.
            "closeStream" | "play2" | "_result" | "_error" | "onStatus" | "close" => {}
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
        self.state = State::Connected { app: app.into(), activity: Activity::Idle };
        Ok(Event::Connected { app: app.to_owned(), auth })
    }

    fn handle_publish(&mut self, msid: u32, command: &Command) -> Result<Event, Error> {
        let (msid, stream) = self.asked_stream(msid, command, "NetStream.Publish.BadName")?;
        self.set_activity(Activity::PublishAsked { msid });
        Ok(Event::Publish { msid, stream })
    }

    fn handle_play(&mut self, msid: u32, command: &Command) -> Result<Event, Error> {
        let (msid, stream) = self.asked_stream(msid, command, "NetStream.Play.StreamNotFound")?;
        self.set_activity(Activity::PlayAsked { msid });
        Ok(Event::Play { msid, stream })
    }

    /// The stream a publish or play names; when it names none, the client is told with `code`.
    fn asked_stream(&mut self, msid: u32, command: &Command, code: &str) -> Result<(u32, StreamKey), Error> {
        let State::Connected { app, activity: Activity::Idle } = &self.state else {
            return Err(Error::StreamActive);
        };
        // Some clients put 0 into the header; they mean the stream they made.
        let msid = if msid != 0 { msid } else { self.streams.checked_ilog2().unwrap_or_default() + 1 };
        let name = command.value(1).and_then(Value::as_str).unwrap_or_default();
        match StreamKey::parse(app, name) {
            Ok(stream) => Ok((msid, stream)),
            Err(error) => {
                reply::on_status(&mut self.link.output, msid, "error", code, &error.to_string());
                Err(error.into())
            }
        }
    }

    /// Ends the active stream, if there is one.
    fn stop(&mut self) -> Option<Event> {
        let event = match self.activity()? {
            Activity::Idle => None,
            Activity::PublishAsked { .. } | Activity::Publishing { .. } => Some(Event::Unpublish),
            Activity::PlayAsked { .. } | Activity::Playing { .. } => Some(Event::StopPlay),
        };
        self.set_activity(Activity::Idle);
        self.fc_publish = false;
        event
    }
}

/// The application a tcUrl names: its path.
fn app_of(tc_url: &str) -> &str {
    let rest = tc_url.split_once("://").map_or(tc_url, |(_, rest)| rest);
    without_params(rest.split_once('/').map_or("", |(_, path)| path))
}
