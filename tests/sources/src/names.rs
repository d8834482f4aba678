//! The modules of one crate and the names in them: from a path in the code to the file that defines what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Ident, Span};
use syn::{Attribute, Item, UseName, UseRename, UseTree};

/// How many names may stand for one another, one after the other: more is a name that stands for itself.
const MAX_ALIASES: u32 = 16;

/// All modules of a crate; the first is its root.
pub(crate) struct Names(Vec<Module>);

/// A module, in a file of its own or not.
pub(crate) struct Module {
    /// Where it is written.
    pub(crate) file: PathBuf,
    /// What is written in it.
    pub(crate) items: Vec<Item>,
    id: usize,
    parent: usize,
    /// Where the files of its children are.
    directory: PathBuf,
    /// One word can name a module and a function.
    names: BTreeMap<String, Vec<Name>>,
    globs: Vec<Vec<String>>,
}

enum Name {
    Module(usize),
    Item,
    /// What a `use` makes a name for.
    Alias(Vec<String>),
}

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Module(usize),
    /// An item, by the module that defines it.
    Item(usize),
}

impl Names {
    pub(crate) fn new(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut this = Self(Vec::new());
        let items = items(root, read).unwrap_or_else(|| panic!("{} is not there", root.display()));
        this.add(0, root, root.parent().unwrap_or(root), items, read);
        this
    }

    pub(crate) fn modules(&self) -> &[Module] {
        &self.0
    }

    /// The files that define what `path` means in `module`; none for another crate's. A path to a module alone names nothing
    /// that is defined in it.
    pub(crate) fn files(&self, module: &Module, path: &[String]) -> BTreeSet<&PathBuf> {
        let is_glob = path.last().is_some_and(|last| last == "*");
        let targets = self.resolve(module.id, path, MAX_ALIASES).into_iter();
        let files = targets.filter_map(|target| match target {
            Target::Module(id) => is_glob.then_some(&self.0[id].file),
            Target::Item(id) => Some(&self.0[id].file),
        });
        files.collect()
    }

    /// Adds a module with all that are in it, and returns its place.
    fn add(
        &mut self,
        parent: usize,
        file: &Path,
        directory: &Path,
        items: Vec<Item>,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> usize {
        let id = self.0.len();
        let (file, directory) = (file.to_owned(), directory.to_owned());
        let (names, globs) = (BTreeMap::new(), Vec::new());
        self.0.push(Module {
            file: file.clone(),
            items: Vec::new(),
            id,
            parent,
            directory: directory.clone(),
            names,
            globs,
        });
        for item in items {
            if is_for_tests(attributes(&item)) {
                continue;
            }
            if let Some(ident) = ident(&item) {
                self.name(id, ident.to_string(), Name::Item);
            }
            match item {
                Item::Mod(module) => {
                    let name = module.ident.to_string();
                    let child = self.add_child(id, module, &name, read);
                    self.name(id, name, Name::Module(child));
                }
                Item::Use(item) => {
                    for Leaf { name, path, .. } in leaves(&item.tree) {
                        match name {
                            Some(name) => self.name(id, name, Name::Alias(path)),
                            None => self.0[id].globs.push(path),
                        }
                    }
                    self.0[id].items.push(Item::Use(item));
                }
                item => self.0[id].items.push(item),
            }
        }
        id
    }

    fn add_child(
        &mut self,
        parent: usize,
        module: syn::ItemMod,
        name: &str,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> usize {
        let has_path = module.attrs.iter().any(|attribute| attribute.path().is_ident("path"));
        assert!(!has_path, "#[path] of mod {name} is not understood");
        let directory = self.0[parent].directory.join(name);
        if let Some((_, items)) = module.content {
            let file = self.0[parent].file.clone();
            return self.add(parent, &file, &directory, items, read);
        }
        let files = [directory.with_extension("rs"), directory.join("mod.rs")];
        let found = files.into_iter().find_map(|file| Some((items(&file, read)?, file)));
        let (items, file) = found.unwrap_or_else(|| panic!("no file for {}", directory.display()));
        self.add(parent, &file, &directory, items, read)
    }

    fn name(&mut self, module: usize, name: String, what: Name) {
        self.0[module].names.entry(name).or_default().push(what);
    }

    fn resolve(&self, from: usize, path: &[String], aliases: u32) -> Vec<Target> {
        let mut at = vec![Target::Module(from)];
        for (index, segment) in path.iter().enumerate() {
            let step = |target: &Target| match (*target, segment.as_str()) {
                // An item's own: a variant, a function of a type.
                (Target::Item(_), _) => vec![*target],
                (Target::Module(id), "self" | "*") => vec![Target::Module(id)],
                (Target::Module(id), "super") => vec![Target::Module(self.0[id].parent)],
                (Target::Module(_), "crate") if index == 0 => vec![Target::Module(0)],
                (Target::Module(id), name) => self.look_up(id, name, aliases),
            };
            at = at.iter().flat_map(step).collect();
            let is_last = index + 1 == path.len();
            if !is_last && at.iter().any(|target| matches!(target, Target::Module(_))) {
                at.retain(|target| matches!(target, Target::Module(_)));
            }
        }
        at
    }

    fn look_up(&self, module: usize, name: &str, aliases: u32) -> Vec<Target> {
        let Some(aliases) = aliases.checked_sub(1) else { return Vec::new() };
        if let Some(names) = self.0[module].names.get(name) {
            let targets = names.iter().flat_map(|name| match name {
                Name::Module(id) => vec![Target::Module(*id)],
                Name::Item => vec![Target::Item(module)],
                Name::Alias(path) => self.resolve(module, path, aliases),
            });
            return targets.collect();
        }
        let globs = self.0[module].globs.iter().flat_map(|glob| self.resolve(module, glob, aliases));
        let targets = globs.flat_map(|target| match target {
            Target::Module(id) => self.look_up(id, name, aliases),
            Target::Item(_) => Vec::new(),
        });
        targets.collect()
    }
}

fn items(file: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<Vec<Item>> {
    let text = read(file)?;
    Some(syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())).items)
}

/// One name that a `use` makes.
pub(crate) struct Leaf {
    /// None for a glob, `_` for a trait whose name is not wanted.
    pub(crate) name: Option<String>,
    /// What it stands for.
    pub(crate) path: Vec<String>,
    /// Where that is written.
    pub(crate) line: usize,
}

/// All names that a `use` makes.
pub(crate) fn leaves(tree: &UseTree) -> Vec<Leaf> {
    fn collect(tree: &UseTree, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
        let mut leaf = |name: Option<&Ident>, last: &str, at: Span| {
            let is_self = last == "self";
            let name = if is_self { path.last().cloned() } else { name.map(ToString::to_string) };
            let path = path.iter().cloned().chain((!is_self).then(|| last.to_owned())).collect();
            leaves.push(Leaf { name, path, line: at.start().line });
        };
        match tree {
            UseTree::Path(segment) => {
                path.push(segment.ident.to_string());
                collect(&segment.tree, path, leaves);
                path.pop();
            }
            UseTree::Name(UseName { ident }) => leaf(Some(ident), &ident.to_string(), ident.span()),
            UseTree::Rename(UseRename { ident, rename, .. }) => {
                leaf(Some(rename), &ident.to_string(), ident.span())
            }
            UseTree::Glob(glob) => leaf(None, "*", glob.star_token.span),
            UseTree::Group(group) => group.items.iter().for_each(|tree| collect(tree, path, leaves)),
        }
    }
    let mut leaves = Vec::new();
    collect(tree, &mut Vec::new(), &mut leaves);
    leaves
}

/// Whether something is compiled for tests only.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let words = list.tokens.to_string();
        let mut words = words.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word == "test")
    })
}

pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn ident(item: &Item) -> Option<&Ident> {
    match item {
        Item::Const(item) => Some(&item.ident),
        Item::Enum(item) => Some(&item.ident),
        Item::Fn(item) => Some(&item.sig.ident),
        Item::Macro(item) => item.ident.as_ref(),
        Item::Static(item) => Some(&item.ident),
        Item::Struct(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}
