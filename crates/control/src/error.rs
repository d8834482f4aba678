//! Why something was not done, as it crosses between processes: a code for programs, a message for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal or failure on the wire: of a process to its supervisor, of a supervisor to `srsctl`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Error {
    /// What kind it is.
    #[serde(default)]
    pub code: Code,
    /// What is wrong, where, and the next step, for a person.
    pub message: String,
}

impl Error {
    /// With this code and message.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

/// The kinds of [`Error`]. Kinds are added and never change their meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request cannot be understood. Nothing was begun.
    Malformed,
    /// The request is understood, and this process does not do that: it is older, or of another role.
    Unsupported,
    /// A request or an answer does not fit a packet.
    TooLong,
    /// What is asked for changes only when the process is started again.
    NeedsRestart,
    /// Something else is under way. Nothing was begun.
    Busy,
    /// Whoever was asked is ending. Nothing was begun.
    Ending,
    /// The request lay so long that its sender has given up. Nothing was begun.
    Stale,
    /// The cluster file is wrong. Nothing was begun.
    Invalid,
    /// What is asked for cannot be done here as things are. Nothing was touched.
    Refused,
    /// What is asked for names nothing that there is.
    NotFound,
    /// It was begun and broken off, since whoever did it was told to end.
    Interrupted,
    /// It would disconnect whoever is connected, and whoever asked has not said that it shall. Nothing was touched.
    NeedsConsent,
    /// What is in force is not what whoever asked has seen. Nothing was touched.
    Changed,
    /// A process does not serve as it should: not ready in time, or left alone.
    NotReady,
    /// It was tried and failed; the system or another process is at fault.
    Failed,
    /// A code of a newer peer, or none.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Code {
    /// The exit code of a command that ends with it; those of `srsctl --help`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::Busy | Self::Ending | Self::Stale => 5,
            Self::NeedsConsent => 6,
            Self::Malformed
            | Self::Unsupported
            | Self::TooLong
            | Self::NeedsRestart
            | Self::Refused
            | Self::NotFound
            | Self::Interrupted
            | Self::Changed
            | Self::NotReady
            | Self::Failed
            | Self::Unknown => 1,
        }
    }

    /// The status of an HTTP answer that is nothing but this error.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Malformed | Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Stale => 408,
            Self::Busy | Self::Refused | Self::NeedsRestart | Self::NeedsConsent | Self::Changed => 409,
            Self::TooLong => 413,
            Self::Unsupported => 501,
            Self::Ending | Self::Interrupted => 503,
            Self::NotReady | Self::Failed | Self::Unknown => 500,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_a_newer_peer_or_none_keeps_the_message() {
        let read = |text| serde_json::from_str::<Error>(text).unwrap();
        assert_eq!(read(r#"{"code":"melted","message":"m","seconds":5}"#), Error::new(Code::Unknown, "m"));
        assert_eq!(read(r#"{"message":"m"}"#), Error::new(Code::Unknown, "m"));
        assert_eq!(read(r#"{"code":"needs-restart","message":"m"}"#), Error::new(Code::NeedsRestart, "m"));
        assert_eq!(Code::Unknown.exit_code(), 1, "as any failure");
    }

    #[test]
    fn where_nothing_was_begun_because_somebody_else_is_at_work_the_exit_code_is_5() {
        for code in [Code::Busy, Code::Ending, Code::Stale] {
            assert_eq!(code.exit_code(), 5, "{code:?}");
        }
        assert_eq!((Code::Failed.exit_code(), Code::Invalid.exit_code()), (1, 2));
    }
}
