//! The cluster files that are and were in force on several machines. Each numbers them for itself: those with the same number and the same text
//! are told of as one.

use supervisor::Generation;

use super::absent::{no_such, none_before};
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::fleet::operation::Operation;
use crate::people::who;
use crate::table::{Cell, Column, Look, Paper, Table};
use crate::terminal::complain;

/// The files of each machine that has told them.
#[derive(Debug)]
pub(crate) struct Histories {
    /// The cluster's name.
    pub(super) cluster: String,
    /// The newest last.
    machines: Vec<(String, Vec<Generation>)>,
}

/// A file, and where it is or was in force.
#[derive(Debug)]
pub(super) struct Entry {
    /// It, as the first of the machines has it.
    pub(super) generation: Generation,
    /// It is in force there.
    pub(super) is_in_force: bool,
    /// There.
    pub(super) machines: Vec<String>,
}

/// Asks all machines; which cannot be reached is told.
///
/// # Errors
/// When none can be, or one does not tell.
pub(crate) async fn read(mut fleet: Fleet) -> Result<Histories, Failure> {
    fleet.reach(false).await;
    let outcome = ask(&fleet).await;
    fleet.close().await;
    outcome
}

async fn ask(fleet: &Fleet) -> Result<Histories, Failure> {
    let problems = fleet.problems();
    if problems.len() == fleet.places().len() {
        return Err(Failure::failed(problems.join("\n")));
    }
    problems.iter().for_each(|problem| complain(problem));
    let cluster = fleet.name().to_owned();
    let mut machines = Vec::new();
    for place in fleet.places().iter().filter(|place| place.problem().is_none()) {
        let operation = Operation::History { cluster: cluster.clone() };
        machines.push((place.to_string(), place.ask(&operation, &[]).await?));
    }
    Ok(Histories { cluster, machines })
}

impl Histories {
    /// So many machines have told.
    pub(super) fn machines(&self) -> usize {
        self.machines.len()
    }

    /// All files, by number.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for (machine, all) in &self.machines {
            for (place, it) in all.iter().enumerate() {
                let is_in_force = place + 1 == all.len();
                let is_same = |known: &&mut Entry| {
                    let same = &known.generation;
                    (same.number, &same.digest, known.is_in_force) == (it.number, &it.digest, is_in_force)
                };
                let Some(known) = entries.iter_mut().find(is_same) else {
                    let (generation, machines) = (it.clone(), vec![machine.clone()]);
                    entries.push(Entry { generation, is_in_force, machines });
                    continue;
                };
                known.machines.push(machine.clone());
                // What it changed is not the same everywhere.
                if !known.generation.what.split("; ").any(|what| what == it.what) {
                    known.generation.what.push_str(&format!("; {}", it.what));
                }
            }
        }
        entries.sort_by_key(|it| it.generation.number);
        entries
    }

    /// The file of this number.
    ///
    /// # Errors
    /// When there is none, or not the same on all machines that have one.
    pub(crate) fn find(&self, number: u64) -> Result<&Generation, Failure> {
        let all = || self.machines.iter().flat_map(|(_, all)| all);
        let found = self.machines.iter().filter_map(|(machine, all)| {
            Some((machine.as_str(), all.iter().find(|it| it.number == number)?))
        });
        let found: Vec<_> = found.collect();
        self.the_one(&format!("file {number}"), &found)?.ok_or_else(|| no_such(&self.cluster, all(), number))
    }

    /// The newest file with another text than the one in force, of the machines that have one: a file that moved is no other.
    ///
    /// # Errors
    /// When none has one, or they have different ones.
    pub(crate) fn before(&self) -> Result<&Generation, Failure> {
        let found = self.machines.iter().filter_map(|(machine, all)| {
            let in_force = all.last()?;
            Some((machine.as_str(), all.iter().rev().find(|it| it.digest != in_force.digest)?))
        });
        let found: Vec<_> = found.collect();
        self.the_one("the file before the one in force", &found)?.ok_or_else(|| none_before(&self.cluster))
    }

    /// The one that all of them are; none of none.
    fn the_one<'a>(
        &self,
        what: &str,
        found: &[(&str, &'a Generation)],
    ) -> Result<Option<&'a Generation>, Failure> {
        let Some((machine, first)) = found.first() else { return Ok(None) };
        match found.iter().find(|(_, it)| it.digest != first.digest) {
            None => Ok(Some(first)),
            Some((other, it)) => Err(Failure::failed(format!(
                "{what} of cluster {} is not the same on {machine} ({}) and {other} ({}): nothing was touched; get the one you mean with \
                 srsctl history --host HOST --text NUMBER, and bring it into force with srsctl up",
                self.cluster, first.number, it.number
            ))),
        }
    }
}

/// For a person; so many machines have told.
pub(super) fn table(entries: &[Entry], machines: usize, paper: Paper) -> String {
    let mut table = Table::new([
        Column::Right("NUMBER"),
        Column::Left("WHEN"),
        Column::Yielding("WHO"),
        Column::Left("STATE"),
        Column::Yielding("MACHINES"),
        Column::Open("WHAT"),
    ]);
    for Entry { generation: it, is_in_force, machines: there } in entries {
        let there = if there.len() == machines { "all".to_owned() } else { there.join(",") };
        table.row([
            it.number.to_string().into(),
            it.at.as_str().into(),
            it.by.map_or_else(|| "-".to_owned(), |by| who(by, &user_there)).into(),
            Cell::new(if *is_in_force { "in force" } else { "-" }, Look::Plain),
            there.into(),
            it.what.as_str().into(),
        ]);
    }
    table.render(paper)
}

/// Of users of other machines only numbers are known.
fn user_there(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("user {uid}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64, text: &str, what: &str) -> Generation {
        let document = serde_json::json!({
            "schema": "srsctl/generation/v1", "number": number, "at": "2026-01-02T03:04:05Z", "by": null, "what": what,
            "path": "/srv/live.yaml", "digest": text, "text": text,
        });
        serde_json::from_value(document).unwrap()
    }

    fn of(machines: [(&str, Vec<Generation>); 2]) -> Histories {
        let machines = machines.map(|(machine, all)| (machine.to_owned(), all)).into();
        Histories { cluster: "live".to_owned(), machines }
    }

    #[test]
    fn files_that_are_the_same_are_one_line_and_others_say_where_they_are() {
        let all = of([
            ("10.0.0.5", vec![generation(1, "a", "started")]),
            ("10.0.0.6", vec![generation(1, "a", "started"), generation(2, "b", "1 started")]),
        ]);
        snapbox::assert_data_eq!(
            table(&all.entries(), all.machines(), Paper::PLAIN),
            snapbox::str![[r#"
NUMBER WHEN                 WHO STATE    MACHINES WHAT
     1 2026-01-02T03:04:05Z -   in force 10.0.0.5 started
     1 2026-01-02T03:04:05Z -   -        10.0.0.6 started
     2 2026-01-02T03:04:05Z -   in force 10.0.0.6 1 started

"#]]
        );
        // The other has no file before: it stays as it is.
        assert_eq!(all.before().unwrap().text, "a");
        assert_eq!(all.find(2).unwrap().text, "b");
        assert!(all.find(3).unwrap_err().to_string().contains("no file 3; there are: 1, 2"));
        let same = of(["10.0.0.5", "10.0.0.6"].map(|it| (it, vec![generation(1, "a", it)])));
        let entries = same.entries();
        assert_eq!((entries.len(), entries[0].generation.what.as_str()), (1, "10.0.0.5; 10.0.0.6"));
        assert!(same.before().unwrap_err().to_string().contains("no file before"));
    }

    #[test]
    fn a_number_that_means_different_files_is_refused() {
        let all = of([
            ("10.0.0.5", vec![generation(1, "a", ""), generation(2, "c", "")]),
            ("10.0.0.6", vec![generation(1, "a", ""), generation(2, "b", ""), generation(3, "c", "")]),
        ]);
        for refused in [all.find(2), all.before()] {
            assert!(refused.unwrap_err().to_string().contains("not the same on 10.0.0.5"));
        }
        assert_eq!(all.find(1).unwrap().text, "a");
    }
}
