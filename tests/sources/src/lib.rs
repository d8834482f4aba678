//! Checks that the files of each crate import one another without a circle, so that each can be read, moved and tested
//! with what stands below it alone.
//!
//! File A imports file B when code of A names an item that is defined in B: in a `use`, or by a path such as `crate::b::Item`,
//! `super::Item` or `b::Item`. A re-export stands for the file that defines the item, and counts as an import of the file that
//! re-exports. `mod b;` alone is no import, and tests (`#[cfg(test)]`) may import what they like. What has no path is not
//! seen: a method that a child adds to its parent's type.
#![cfg(test)]

mod graph;
mod names;

use std::path::Path;
use std::process::Command;

use graph::Graph;

#[test]
fn no_file_of_the_workspace_is_on_a_circle_of_imports() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let mut circles = String::new();
    for root in roots(&workspace) {
        let root = Path::new(&root);
        let name = root.strip_prefix(&workspace).unwrap().to_str().unwrap();
        if let Some(circle) = Graph::new(&workspace, root, &read).shortest_circle() {
            circles.push_str(&format!("{name}:\n{circle}"));
        }
    }
    assert!(
        circles.is_empty(),
        "\nimports go in a circle; move what both files need into a third:\n{circles}"
    );
}

/// The root file of every crate of the workspace: libraries, binaries, tests, examples and benchmarks.
fn roots(workspace: &Path) -> Vec<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let cargo =
        cargo.args(["metadata", "--no-deps", "--format-version=1", "--offline"]).current_dir(workspace);
    let metadata: serde_json::Value = serde_json::from_slice(&cargo.output().unwrap().stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let targets = packages.iter().flat_map(|package| package["targets"].as_array().unwrap());
    let roots: Vec<_> = targets.map(|target| target["src_path"].as_str().unwrap().to_owned()).collect();
    assert!(roots.iter().any(|root| root.ends_with("/src/main.rs")), "{roots:#?}");
    roots
}
