//! Checks of the sources themselves.
//!
//! * The files of each crate import one another without a circle, so that each can be read, moved and tested with what stands
//!   below it alone ([`graph`]). File A imports file B when code of A names an item that is defined in B: in a `use`, or by a
//!   path such as `crate::b::Item`, `super::Item` or `b::Item`. A re-export stands for the file that defines the item, and
//!   counts as an import of the file that re-exports. `mod b;` alone is no import, and tests (`#[cfg(test)]`) may import what
//!   they like. What has no path is not seen: a method that a child adds to its parent's type.
//! * docs/limits.md lists every bound of the product, with its value ([`limits`]). Which constant is a bound is told by its
//!   type and its name; what it counts, by the comment in front of it ([`constants`]).
#![cfg(test)]

mod amount;
mod constants;
mod graph;
mod limits;
mod names;

use std::path::{Path, PathBuf};
use std::process::Command;

use constants::constants;
use graph::Graph;
use limits::NO_BOUNDS;
use names::Names;

#[test]
fn no_file_of_the_workspace_is_on_a_circle_of_imports() {
    let workspace = workspace();
    let mut circles = String::new();
    for root in roots(&workspace, |_, _| true) {
        let name = root.strip_prefix(&workspace).unwrap().to_str().unwrap();
        if let Some(circle) = Graph::new(&workspace, &root, &read).shortest_circle() {
            circles.push_str(&format!("{name}:\n{circle}"));
        }
    }
    assert!(
        circles.is_empty(),
        "\nimports go in a circle; move what both files need into a third:\n{circles}"
    );
}

#[test]
fn every_bound_of_the_product_is_listed_with_its_value_and_nothing_else_is() {
    let workspace = workspace();
    let is_product =
        |package: &str, kind: &str| package != env!("CARGO_PKG_NAME") && ["lib", "bin"].contains(&kind);
    let roots = roots(&workspace, is_product);
    let constants = roots.iter().flat_map(|root| constants(&workspace, &Names::new(root, &read)));
    let list = read(&workspace.join(limits::LIST)).unwrap();
    let differences = limits::differences(&list, &constants.collect::<Vec<_>>(), &NO_BOUNDS);
    assert!(differences.is_empty(), "\n{}\n", differences.join("\n"));
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The root files of the workspace's crates, of those that `is_wanted` by the name of the package and the kind of the crate:
/// lib, bin, test, example or bench.
fn roots(workspace: &Path, is_wanted: impl Fn(&str, &str) -> bool) -> Vec<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let cargo =
        cargo.args(["metadata", "--no-deps", "--format-version=1", "--offline"]).current_dir(workspace);
    let metadata: serde_json::Value = serde_json::from_slice(&cargo.output().unwrap().stdout).unwrap();
    let mut roots = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        for target in package["targets"].as_array().unwrap() {
            if is_wanted(package["name"].as_str().unwrap(), target["kind"][0].as_str().unwrap()) {
                roots.push(PathBuf::from(target["src_path"].as_str().unwrap()));
            }
        }
    }
    assert!(roots.iter().any(|root| root.ends_with("src/main.rs")), "{roots:#?}");
    roots
}
