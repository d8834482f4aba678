//! `srsctl rollback`: brings an earlier cluster file into force again, as `up` does with any other, on all machines of the cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use cluster::file::ClusterFile;
use supervisor::{Generation, generations};

use crate::change::{self, Cost, Wish};
use crate::commands::{history, up};
use crate::failure::Failure;
use crate::fleet::{Fleet, Reach};
use crate::subject::{Global, Loaded, Subject};
use crate::terminal::complain;

/// What its help shows: the words are told apart by what they are.
pub(crate) const USAGE: &str = "srsctl rollback [OPTIONS] [NUMBER] [FILE]";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The number of the file, as srsctl history has it, without it the one before the one in force; the cluster's file or its name
    #[arg(num_args = 0..=2, value_name = "WORD")]
    words: Vec<String>,
    /// Show what would be done, and touch nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    cost: Cost,
    #[command(flatten)]
    reach: Reach,
}

/// Brings it into force.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let Args { words, dry_run, cost, reach } = args;
    let (mut number, mut path): (Option<u64>, Option<PathBuf>) = (None, None);
    for word in words {
        let is_twice = match word.parse() {
            Ok(parsed) => number.replace(parsed).is_some(),
            Err(_) => path.replace(word.into()).is_some(),
        };
        if is_twice {
            return Err(Failure::usage("rollback takes one number of a file, and one cluster"));
        }
    }
    let subject = Subject::find_to_change(global, path.as_deref(), "rollback")?;
    let earlier = match Fleet::of(global, &subject)? {
        Some(mut fleet) => {
            fleet.limit_to(&reach.limit)?;
            let all = history::several::read(fleet).await?;
            number.map_or_else(|| all.before(), |number| all.find(number))?.clone()
        }
        None => find(&subject, number)?,
    };
    let number = earlier.number;
    let file = ClusterFile::new(earlier.path.clone(), earlier.text.clone());
    let (subject, loaded) = Subject::of_loaded(global, file)?;
    let loaded = Loaded { path: earlier.path.clone(), ..loaded };
    let fleet = Fleet::of_cluster(global, &subject, &loaded.cluster);
    let wish = Wish { cost, rollback: Some(number), planned: None };
    if dry_run {
        return up::rehearse((fleet, &reach), &subject, &loaded, &wish).await;
    }
    let code = up::carry_out((fleet, &reach), &subject, &loaded, &wish).await?;
    if std::fs::read_to_string(&loaded.path).is_ok_and(|text| text != loaded.text) {
        let (path, word) = (loaded.path.display(), change::shell_word(&loaded.path));
        complain(&format!(
            "{path} still has another text, which srsctl up {word} brings into force; that of {number}: srsctl history --text {number}"
        ));
    }
    Ok(code)
}

/// The file of this number on this machine; without one, that before the one in force.
fn find(subject: &Subject, number: Option<u64>) -> Result<Generation, Failure> {
    let all = generations(subject.dirs())?;
    let before = all.iter().rev().nth(1).map(|it| it.number);
    let number = number.or(before).ok_or_else(|| history::absent::none_before(subject.name()))?;
    history::find(subject.name(), &all, number).cloned()
}
