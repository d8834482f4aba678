//! How a command fails: one message for a person and an exit code.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

/// Exit codes, documented in `srsctl --help`.
pub(crate) mod code {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const NOT_READY: u8 = 3;
    pub(crate) const CANNOT_TELL: u8 = 4;
    pub(crate) const LOCKED: u8 = 5;
    pub(crate) const CONSENT: u8 = 6;
    pub(crate) const CHANGES: u8 = 7;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// Tried and failed.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(code::FAILED, message)
    }

    /// Wrong arguments or a wrong cluster file.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(code::USAGE, message)
    }

    /// The document that stands for it where JSON was asked for; changes only add.
    pub(crate) fn document(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Document {
            schema: &'static str,
            error: Error,
        }
        #[derive(Serialize)]
        struct Error {
            code: &'static str,
            exit_code: u8,
            message: String,
        }
        let error = Error { code: self.name(), exit_code: self.code, message: self.message.clone() };
        Document { schema: "srsctl/error/v1", error }
    }

    /// The exit code's name, for programs.
    fn name(&self) -> &'static str {
        match self.code {
            code::USAGE => "usage",
            code::NOT_READY => "not-ready",
            code::CANNOT_TELL => "cannot-tell",
            code::LOCKED => "busy",
            code::CONSENT => "needs-consent",
            code::INTERRUPTED => "interrupted",
            _ => "failed",
        }
    }

    /// The exit code as a number.
    pub(crate) fn number(&self) -> u8 {
        self.code
    }

    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<supervisor::StateError> for Failure {
    fn from(error: supervisor::StateError) -> Self {
        Self::failed(error)
    }
}

impl From<supervisor::ClientError> for Failure {
    fn from(error: supervisor::ClientError) -> Self {
        use supervisor::ClientError as E;
        let code = match &error {
            E::Refused(error) => error.code.exit_code(),
            E::NoSocket { .. } => code::LOCKED,
            E::NotRunning { .. }
            | E::Unreachable { .. }
            | E::Silent { .. }
            | E::Older { .. }
            | E::Broken { .. }
            | E::Lost(_)
            | E::StaysOn { .. } => code::FAILED,
        };
        Self::new(code, error)
    }
}

impl From<cluster::file::FileError> for Failure {
    fn from(error: cluster::file::FileError) -> Self {
        Self::usage(error)
    }
}
