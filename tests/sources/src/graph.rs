//! Which file of a crate imports which, and the circles in that.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::Visit;

use crate::names::{self, Names, is_for_tests};

/// The files of one crate and what they import of one another.
pub(crate) struct Graph {
    imports: BTreeMap<PathBuf, BTreeMap<PathBuf, Import>>,
}

/// The first place where a file imports another.
struct Import {
    line: usize,
    path: String,
}

impl Graph {
    /// Reads the crate whose first file is `root`; names of files are shown below `base`.
    pub(crate) fn new(base: &Path, root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Self {
        let names = Names::new(root, read);
        let mut imports: BTreeMap<PathBuf, BTreeMap<PathBuf, Import>> = BTreeMap::new();
        let short = |file: &Path| file.strip_prefix(base).unwrap_or(file).to_owned();
        for module in names.modules() {
            let mut mentions = Mentions::default();
            module.items.iter().for_each(|item| mentions.visit_item(item));
            for (mut path, line) in mentions.paths {
                if let Some(meant) = path.first().and_then(|first| mentions.aliases.get(first)) {
                    path.splice(..1, meant.iter().cloned());
                }
                for file in names.files(module, &path) {
                    if *file != module.file {
                        let of_file = imports.entry(short(&module.file)).or_default();
                        of_file.entry(short(file)).or_insert_with(|| Import { line, path: path.join("::") });
                    }
                }
            }
        }
        Self { imports }
    }

    /// The shortest circle, a line for each import in it.
    pub(crate) fn shortest_circle(&self) -> Option<String> {
        let circle = self.imports.keys().filter_map(|file| self.circle(file)).min_by_key(Vec::len)?;
        let next = circle.iter().cycle().skip(1);
        let lines = circle.iter().zip(next).map(|(file, imported)| {
            let Import { line, path } = &self.imports[*file][*imported];
            format!("  {}:{line}: {path} is in {}\n", file.display(), imported.display())
        });
        Some(lines.collect())
    }

    /// The shortest way from `file` back to it, each file once.
    fn circle(&self, file: &Path) -> Option<Vec<&Path>> {
        let mut reached_from: BTreeMap<&Path, &Path> = BTreeMap::new();
        let mut queue: VecDeque<&Path> = VecDeque::from([self.imports.get_key_value(file)?.0.as_path()]);
        while let Some(at) = queue.pop_front() {
            for next in self.imports.get(at).into_iter().flat_map(BTreeMap::keys) {
                if next == file {
                    let mut way = vec![at];
                    while let Some(before) = way.last().and_then(|last| reached_from.get(last)) {
                        way.push(before);
                    }
                    way.reverse();
                    return Some(way);
                }
                if !reached_from.contains_key(next.as_path()) {
                    reached_from.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

/// The paths that code mentions, each with its line.
#[derive(Default)]
struct Mentions {
    paths: Vec<(Vec<String>, usize)>,
    /// What a `use` inside a function makes names for.
    aliases: BTreeMap<String, Vec<String>>,
}

impl Mentions {
    /// Paths in what is not parsed: the input of macros and attributes.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<Ident> = Vec::new();
        // Whether what comes next is joined to `path`, and how many colons of the joint have been seen.
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 => path.push(ident),
                TokenTree::Ident(ident) => self.end(&mut path, Some(ident)),
                TokenTree::Punct(colon) if colon.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end(&mut path, None);
                    self.scan(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.end(&mut path, None),
            }
            colons = 0;
        }
        self.end(&mut path, None);
    }

    /// Notes the path that has ended, and begins the next one with `ident`.
    fn end(&mut self, path: &mut Vec<Ident>, ident: Option<Ident>) {
        if let Some(first) = path.first() {
            self.paths.push((path.iter().map(ToString::to_string).collect(), first.span().start().line));
        }
        *path = ident.into_iter().collect();
    }
}

impl<'a> Visit<'a> for Mentions {
    fn visit_item(&mut self, item: &'a syn::Item) {
        // Modules have items of their own.
        if !matches!(item, syn::Item::Mod(_)) && !is_for_tests(names::attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        for leaf in names::leaves(&item.tree) {
            if let Some(name) = leaf.name {
                self.aliases.insert(name, leaf.path.clone());
            }
            self.paths.push((leaf.path, leaf.line));
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string());
            self.paths.push((segments.collect(), first.ident.span().start().line));
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        self.visit_path(&call.path);
        self.scan(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'a syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circle of a crate with these files, of which the first is its root.
    #[track_caller]
    fn circle(files: &[(&str, &str)]) -> Option<String> {
        let read = |path: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
        };
        Graph::new(Path::new("src"), Path::new(files[0].0), &read).shortest_circle()
    }

    #[test]
    fn two_files_that_import_each_other_are_a_circle_and_its_lines_are_shown() {
        let found = circle(&[
            ("src/lib.rs", "mod a; mod b; mod c;"),
            ("src/a.rs", "use crate::b::B;\npub struct A;"),
            ("src/b.rs", "\n\nuse super::a::{self, A};\npub struct B;"),
            ("src/c.rs", "use crate::{a::A, b::B};"),
        ]);
        assert_eq!(
            found.as_deref(),
            Some("  a.rs:1: crate::b::B is in b.rs\n  b.rs:3: super::a::A is in a.rs\n")
        );
    }

    #[test]
    fn the_shortest_circle_is_shown_and_a_file_beside_it_is_not() {
        let found = circle(&[
            ("src/main.rs", "mod a; mod b; mod c; mod d; fn main() { a::a() }"),
            ("src/a.rs", "pub fn a() { crate::b::b() }"),
            ("src/b.rs", "pub fn b() { crate::c::c(); crate::d::d() }"),
            ("src/c.rs", "pub fn c() { crate::a::a() }"),
            ("src/d.rs", "pub fn d() { crate::b::b() }"),
        ]);
        let found = found.unwrap();
        assert_eq!(found.lines().count(), 2, "{found}");
        assert!(found.contains("d.rs:1: crate::b::b is in b.rs"), "{found}");
    }

    #[test]
    fn imports_in_one_direction_are_no_circle() {
        let files = [
            ("src/lib.rs", "mod a; mod b; pub use a::A;"),
            ("src/a.rs", "mod child; use crate::b::B; pub struct A(child::Child, B);"),
            ("src/a/child.rs", "use super::super::b; pub struct Child(b::B);"),
            ("src/b.rs", "use std::fmt; pub struct B(fmt::Error, other::a::A);"),
        ];
        assert_eq!(circle(&files), None);
    }

    #[test]
    fn a_child_that_imports_from_a_parent_that_uses_it_is_a_circle() {
        let child = ("src/a/child.rs", "pub struct Child(super::Size);");
        for parent in ["pub use child::Child;", "struct A(child::Child);", "fn a() { child::Child::new() }"] {
            let parent = format!("mod child; pub struct Size; {parent}");
            assert!(circle(&[("src/lib.rs", "mod a;"), ("src/a.rs", &parent), child]).is_some(), "{parent}");
        }
        let parent = "mod child; pub struct Size;";
        assert_eq!(circle(&[("src/lib.rs", "mod a;"), ("src/a/mod.rs", parent), child]), None);
    }

    #[test]
    fn a_re_export_stands_for_the_file_that_defines_the_item() {
        let root = ("src/lib.rs", "pub mod a; mod b; mod c; pub use b::*; pub use c::C as D;");
        let c = ("src/c.rs", "use crate::a::A; pub struct C;");
        for a in [
            "use crate::D; pub struct A;",
            "pub struct A(crate::a::super::D);",
            "use crate::*; pub struct A(D);",
        ] {
            let found = circle(&[root, ("src/a.rs", a), ("src/b.rs", ""), c]);
            assert!(found.is_some(), "{a}");
        }
        assert_eq!(
            circle(&[root, ("src/a.rs", "use crate::B; pub struct A;"), ("src/b.rs", "pub struct B;"), c]),
            None
        );
    }

    #[test]
    fn what_macros_attributes_and_inner_uses_name_is_seen() {
        let root = ("src/lib.rs", "mod a; mod b;");
        let b = ("src/b.rs", "use crate::a::A; pub fn b() {} pub mod inner { pub const C: u8 = 1; }");
        for a in [
            "fn a() { println!(\"{}\", [crate::b::b()]) }",
            "#[derive(x)] struct B { #[arg(value_parser = crate::b::b)] b: u8 }",
            "fn a() { use crate::b::inner; let _ = Some::<u8>(inner::C); }",
            "use crate::b as other; fn a() { matches!(1, other::inner::C); }",
        ] {
            let a = format!("pub struct A; {a}");
            assert!(circle(&[root, ("src/a.rs", &a), b]).is_some(), "{a}");
        }
    }

    #[test]
    fn tests_may_import_what_they_like() {
        let root = ("src/lib.rs", "mod a; mod b;");
        let b = ("src/b.rs", "use crate::a::A; pub struct B;");
        for a in [
            "#[cfg(test)] mod tests { use crate::b::B; }",
            "#[cfg(test)] mod tests;",
            "#[cfg(test)] use crate::b::B;",
            "#[cfg(any(test, feature = \"fuzzing\"))] fn a() -> crate::b::B { todo!() }",
            "impl A { #[cfg(test)] fn a() -> crate::b::B { todo!() } }",
        ] {
            let a = format!("pub struct A; {a}");
            let tests = ("src/a/tests.rs", "use crate::b::B;");
            assert_eq!(circle(&[root, ("src/a.rs", &a), b, tests]), None, "{a}");
        }
    }
}
