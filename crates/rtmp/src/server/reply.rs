//! What the server says.

use super::{PlayEnd, PublishEnd};
use crate::amf0::Value;
use crate::link::{Output, object, user_control};
use crate::message_type;
use crate::wire::{PLAYER_WINDOW, WINDOW};

/// `SetPeerBandwidth` limit type "dynamic" (RTMP 1.0, section 5.4.5).
const DYNAMIC: u8 = 2;

/// Enhanced RTMP v2: any codec can be forwarded.
const CAN_FORWARD: f64 = 4.0;

/// Enhanced RTMP v2 `capsEx`: multitrack (2) and ModEx (4) pass; no reconnect request, no nanoseconds.
const CAPABILITIES: f64 = 6.0;

/// Parts of a `connect` its answer depends on.
pub(super) struct Asked {
    pub(super) transaction: f64,
    pub(super) object_encoding: f64,
    /// The client named capabilities of Enhanced RTMP.
    pub(super) enhanced: bool,
}

/// The answer to `connect`, chunk size first of what is long.
pub(super) fn connected(output: &mut Output, asked: &Asked, chunk_size: u32) {
    output.control(message_type::WINDOW_ACK_SIZE, &WINDOW.to_be_bytes());
    let [a, b, c, d] = WINDOW.to_be_bytes();
    output.control(message_type::SET_PEER_BANDWIDTH, &[a, b, c, d, DYNAMIC]);
    output.set_chunk_size(chunk_size);
    let mut properties =
        vec![field("fmsVer", "FMS/3,5,3,888"), field("capabilities", 127.0), field("mode", 1.0)];
    let mut info = vec![
        field("level", "status"),
        field("code", "NetConnection.Connect.Success"),
        field("description", "Connection succeeded"),
        field("objectEncoding", asked.object_encoding),
    ];
    if asked.enhanced {
        // The specification does not say which of the two objects; clients look into either.
        properties.extend(enhanced());
        info.extend(enhanced());
    }
    output.command(0, "_result", asked.transaction, &[Value::Object(properties), Value::Object(info)]);
    output.command(0, "onBWDone", 0.0, &[Value::Null]);
}

pub(super) fn connect_refused(output: &mut Output, transaction: f64, code: &str, description: &str) {
    output.command(0, "_error", transaction, &[Value::Null, info("error", code, description)]);
}

/// Answers a call, if an answer is expected.
pub(super) fn result(output: &mut Output, transaction: f64, value: Value) {
    if transaction > 0.0 {
        output.command(0, "_result", transaction, &[Value::Null, value]);
    }
}

pub(super) fn on_status(output: &mut Output, msid: u32, level: &str, code: &str, description: &str) {
    output.command(msid, "onStatus", 0.0, &[Value::Null, info(level, code, description)]);
}

pub(super) fn publish_started(output: &mut Output, msid: u32, fc_publish: bool) {
    output.user_control(user_control::STREAM_BEGIN, msid);
    if fc_publish {
        let info = object([
            ("code", "NetStream.Publish.Start".into()),
            ("description", "Started publishing stream.".into()),
        ]);
        output.command(msid, "onFCPublish", 0.0, &[Value::Null, info]);
    }
    on_status(output, msid, "status", "NetStream.Publish.Start", "Started publishing stream.");
}

/// The answers to FCUnpublish.
pub(super) fn publish_stopped(output: &mut Output, msid: u32, transaction: f64) {
    const CODE: &str = "NetStream.Unpublish.Success";
    const DESCRIPTION: &str = "Stopped publishing stream.";
    let info = object([("code", CODE.into()), ("description", DESCRIPTION.into())]);
    output.command(msid, "onFCUnpublish", 0.0, &[Value::Null, info]);
    result(output, transaction, Value::Undefined);
    on_status(output, msid, "status", CODE, DESCRIPTION);
}

/// The answer to publish(false).
pub(super) fn unpublished(output: &mut Output, msid: u32) {
    on_status(output, msid, "status", "NetStream.Unpublish.Success", "Stopped publishing stream.");
}

/// Without `NetStream.Data.Start`: FFmpeg would take it for a data track ahead of the video.
pub(super) fn play_started(output: &mut Output, msid: u32, resets: bool) {
    output.control(message_type::WINDOW_ACK_SIZE, &PLAYER_WINDOW.to_be_bytes());
    output.user_control(user_control::STREAM_BEGIN, msid);
    if resets {
        on_status(output, msid, "status", "NetStream.Play.Reset", "Playing and resetting stream.");
    }
    on_status(output, msid, "status", "NetStream.Play.Start", "Started playing stream.");
    output.data(msid, &["|RtmpSampleAccess".into(), true.into(), true.into()]);
}

const MADE_ROOM: &str = "All places are taken, and another had more right to this one.";

pub(super) fn publish_ended(output: &mut Output, msid: u32, why: PublishEnd) {
    let (code, description) = match why {
        PublishEnd::Idle => ("NetStream.Publish.Idle", "Nothing was sent."),
        PublishEnd::MadeRoom => ("NetStream.Publish.Denied", MADE_ROOM),
        PublishEnd::Denied(why) => ("NetStream.Publish.Denied", why),
    };
    on_status(output, msid, "error", code, description);
}

/// FFmpeg and librtmp end at the status, GStreamer at the end of the stream.
pub(super) fn play_ended(output: &mut Output, msid: u32, why: PlayEnd) {
    match why {
        PlayEnd::Complete => {
            let info = object([("level", "status".into()), ("code", "NetStream.Play.Complete".into())]);
            output.data(msid, &["onPlayStatus".into(), info]);
        }
        PlayEnd::Unpublished => {
            on_status(output, msid, "status", "NetStream.Play.UnpublishNotify", "The publication is over.");
        }
        PlayEnd::MadeRoom => on_status(output, msid, "error", "NetStream.Play.Failed", MADE_ROOM),
    }
    output.user_control(user_control::STREAM_EOF, msid);
    play_stopped(output, msid);
}

pub(super) fn play_stopped(output: &mut Output, msid: u32) {
    on_status(output, msid, "status", "NetStream.Play.Stop", "Stopped playing stream.");
}

pub(super) fn paused(output: &mut Output, msid: u32, pause: bool) {
    if pause {
        on_status(output, msid, "status", "NetStream.Pause.Notify", "Paused stream.");
        output.user_control(user_control::STREAM_EOF, msid);
    } else {
        on_status(output, msid, "status", "NetStream.Unpause.Notify", "Unpaused stream.");
        output.user_control(user_control::STREAM_BEGIN, msid);
    }
}

fn info(level: &str, code: &str, description: &str) -> Value {
    object([
        ("level", level.into()),
        ("code", code.into()),
        ("description", description.into()),
        ("clientid", "srsctl".into()),
    ])
}

fn enhanced() -> [(String, Value); 4] {
    let any = || object([("*", CAN_FORWARD.into())]);
    [
        ("videoFourCcInfoMap".to_owned(), any()),
        ("audioFourCcInfoMap".to_owned(), any()),
        ("fourCcList".to_owned(), Value::StrictArray(vec!["*".into()])),
        field("capsEx", CAPABILITIES),
    ]
}

fn field(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.to_owned(), value.into())
}
