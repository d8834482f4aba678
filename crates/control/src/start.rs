//! What a new supervisor is told, and what it tells of its start: JSON, on the two ends of its standard input and output.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::api::StartupEvent;

/// Length of a secret, characters: 32 bytes in hex.
const SECRET: usize = 64;

/// All that a new supervisor is told, on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Absolute path of the cluster file, for messages and for relative paths in it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The hosts that are this machine; without any, all are.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The secret between origin and edges, where other machines have it too; without it, this one has it or makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

/// So many there are at most while one replaces another.
const MAX_LINES: usize = 4;

/// What a new supervisor tells, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartupLine {
    /// It comes up.
    Startup(StartupEvent),
    /// It does not, and nothing is left of it.
    Failed {
        /// For a person.
        message: String,
        /// Exit code for `up`.
        code: u8,
    },
}

/// The secret between origin and edges, a line; while it is replaced more than one, of which the first is used and each is believed. Nothing
/// shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret(String);

impl Secret {
    /// As it stands in its file.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Secret {
    /// Of these, the first to be used; each once.
    ///
    /// # Errors
    /// When there are none, or too many.
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, &'static str> {
        let mut each: Vec<&str> = Vec::new();
        for line in lines {
            if !each.contains(&line) {
                each.push(line);
            }
        }
        Self::try_from(each.join("\n"))
    }

    /// Each of them.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }
}

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let is_sound = |line: &str| line.len() == SECRET && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let lines: Vec<&str> = text.trim_end().split('\n').collect();
        if lines.len() <= MAX_LINES && lines.iter().all(|line| is_sound(line)) {
            Ok(Self(lines.join("\n") + "\n"))
        } else {
            Err("no secret: 64 hexadecimal digits")
        }
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_stands_in_its_file_and_never_shown() {
        let digits = "5e".repeat(32);
        let text = serde_json::to_string(&format!("{digits}\n")).unwrap();
        let secret: Secret = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&secret).unwrap(), text);
        assert!(!format!("{secret:?}").contains("5e"));
        for wrong in ["", "x", &digits[1..], &format!("{digits}0"), &digits.replace('e', "g")] {
            let error = serde_json::from_str::<Secret>(&serde_json::to_string(wrong).unwrap()).unwrap_err();
            assert!(wrong.is_empty() || wrong == "x" || !error.to_string().contains(wrong));
        }
    }
}
