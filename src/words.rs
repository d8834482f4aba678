//! The words behind `restart` and `logs`: a role, a port, and a cluster's file or name, in any order.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::failure::Failure;

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Words<Role> {
    /// One of the roles of the command.
    pub(crate) role: Option<Role>,
    /// A port.
    pub(crate) port: Option<u16>,
    /// What is neither: a file, or the name of a cluster.
    pub(crate) path: Option<PathBuf>,
}

impl<Role: ValueEnum> Words<Role> {
    /// Takes the words apart.
    ///
    /// # Errors
    /// Two words of one kind, or a number that is no port.
    pub(crate) fn read(words: Vec<String>) -> Result<Self, Failure> {
        let mut this = Self { role: None, port: None, path: None };
        for word in words {
            let is_second = if let Ok(role) = Role::from_str(&word, false) {
                this.role.replace(role).is_some()
            } else if word.chars().all(|c| c.is_ascii_digit()) {
                let port = word.parse().ok().filter(|port| *port > 0);
                let port = port.ok_or_else(|| Failure::usage(format!("{word} is no port: 1 to 65535")))?;
                this.port.replace(port).is_some()
            } else {
                this.path.replace(word.clone().into()).is_some()
            };
            if is_second {
                return Err(Failure::usage(format!("{word}: one word too many; {}", Self::expected())));
            }
        }
        Ok(this)
    }

    /// What may stand there.
    pub(crate) fn expected() -> String {
        let roles = Role::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let roles: Vec<_> = roles.map(|role| role.get_name().to_owned()).collect();
        format!("a role ({}), a port, and a cluster's file or name are understood", roles.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
    enum Role {
        Origin,
        Edge,
    }

    fn read(words: &[&str]) -> Result<Words<Role>, String> {
        Words::read(words.iter().map(|word| (*word).to_owned()).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn each_word_says_what_it_is() {
        let expected = Words { role: Some(Role::Edge), port: Some(1936), path: Some("a.yaml".into()) };
        assert_eq!(read(&["edge", "1936", "a.yaml"]), Ok(expected));
        let expected = Words { role: Some(Role::Origin), port: None, path: Some("live".into()) };
        assert_eq!(read(&["live", "origin"]), Ok(expected));
    }

    #[test]
    fn two_words_of_a_kind_and_a_number_that_is_no_port_are_refused() {
        for (words, why) in [
            (&["edge", "origin"][..], "origin: one word too many; a role (origin, edge), a port"),
            (&["a.yaml", "b.yaml"], "b.yaml: one word too many"),
            (&["edge", "70000"], "70000 is no port"),
            (&["0"], "0 is no port"),
        ] {
            assert!(read(words).unwrap_err().starts_with(why), "{words:?}");
        }
    }
}
