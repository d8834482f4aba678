//! The constants of a crate, what they amount to, and which of them are bounds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{BinOp, Expr, Lit, Type};

use crate::amount::{Amount, Unit};
use crate::names::{self, Names, is_for_tests};

/// A constant that has been read.
pub(crate) struct Constant {
    /// Where it is written.
    pub(crate) file: PathBuf,
    /// `NAME`, or `Type::NAME` of one that belongs to a type, or `Type::field` of a field that `Default` sets.
    pub(crate) name: String,
    /// None when it is no number, or an expression that is not understood.
    pub(crate) amount: Option<Amount>,
    /// It is a time or a number of at least 32 bits. A smaller number, which is mostly a code of a format, a fraction, and a field
    /// that `Default` sets are bounds when their names say so. A second name of another constant is none.
    pub(crate) is_bound: bool,
}

/// Types whose constants are bounds.
const WIDE: [&str; 8] = ["Duration", "Span", "usize", "u32", "u64", "isize", "i32", "i64"];
/// Types whose constants are bounds when their names say so.
const NARROW: [&str; 6] = ["u8", "u16", "i8", "i16", "f32", "f64"];
/// Words in the names of bounds.
const WORDS: [&str; 11] = [
    "MAX", "MIN", "LIMIT", "LIMITS", "TIMEOUT", "AFTER", "EVERY", "PERIOD", "INTERVAL", "LONGEST", "SHORTEST",
];

/// All constants of a crate, those of tests left out; names of files are shown below `base`.
pub(crate) fn constants(base: &Path, names: &Names) -> Vec<Constant> {
    let mut found = Collector::default();
    for module in names.modules() {
        found.file = module.file.strip_prefix(base).unwrap_or(&module.file).to_owned();
        module.items.iter().for_each(|item| found.visit_item(item));
    }
    let Collector { mut found, fields, .. } = found;
    for default in found.iter_mut().filter(|found| found.is_default) {
        if let Some((ty, doc)) = fields.get(&default.name) {
            default.ty.clone_from(ty);
            default.doc.clone_from(doc);
        }
    }
    let constant = |one: &Found<'_>| Constant {
        file: one.file.clone(),
        name: one.name.clone(),
        amount: one.amount(&found),
        is_bound: one.is_bound(),
    };
    found.iter().map(constant).collect()
}

/// A constant as it is written.
struct Found<'a> {
    file: PathBuf,
    name: String,
    /// The type whose constant it is.
    of: Option<String>,
    /// The name of its type, where that is a plain one.
    ty: Option<String>,
    doc: String,
    value: &'a Expr,
    is_default: bool,
}

/// What an expression amounts to; times in ms.
#[derive(Clone, Copy)]
struct Value {
    number: f64,
    is_time: bool,
}

impl Found<'_> {
    fn is_bound(&self) -> bool {
        let Some(ty) = self.ty.as_deref() else { return false };
        let (is_wide, is_narrow) = (WIDE.contains(&ty), NARROW.contains(&ty));
        let is_another = matches!(self.value, Expr::Path(_));
        let is_named = self.name.split(['_', ':']).any(|word| WORDS.contains(&word.to_uppercase().as_str()));
        !is_another && (is_wide && !self.is_default || (is_wide || is_narrow) && is_named)
    }

    fn amount(&self, all: &[Self]) -> Option<Amount> {
        let (from, to) = match self.value {
            Expr::Range(range) => (range.start.as_deref()?, range.end.as_deref()?),
            value => (value, value),
        };
        let (from, to) = (self.value(from, all)?, self.value(to, all)?);
        let unit = if from.is_time { Unit::Millisecond } else { Unit::of_comment(&self.doc) };
        Some(Amount { unit, from: from.number, to: to.number })
    }

    fn value(&self, expr: &Expr, all: &[Self]) -> Option<Value> {
        let number = |number| Some(Value { number, is_time: false });
        match expr {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(int) => number(int.base10_parse::<u64>().ok()? as f64),
                Lit::Float(float) => number(float.base10_parse().ok()?),
                _ => None,
            },
            Expr::Paren(inner) => self.value(&inner.expr, all),
            Expr::Cast(inner) => self.value(&inner.expr, all),
            Expr::Unary(unary) if matches!(unary.op, syn::UnOp::Neg(_)) => {
                let value = self.value(&unary.expr, all)?;
                Some(Value { number: -value.number, ..value })
            }
            Expr::Binary(binary) => {
                let (left, right) = (self.value(&binary.left, all)?, self.value(&binary.right, all)?);
                calculate(&binary.op, left, right)
            }
            Expr::MethodCall(call) => {
                let op = match call.method.to_string().as_str() {
                    "saturating_add" => BinOp::Add(<syn::Token![+]>::default()),
                    "saturating_sub" => BinOp::Sub(<syn::Token![-]>::default()),
                    "saturating_mul" => BinOp::Mul(<syn::Token![*]>::default()),
                    _ => return None,
                };
                let (left, right) = (self.value(&call.receiver, all)?, self.value(call.args.first()?, all)?);
                calculate(&op, left, right)
            }
            Expr::Call(call) => {
                let Expr::Path(function) = &*call.func else { return None };
                let in_ms = match path(&function.path).as_str() {
                    "Duration::from_secs" | "Span::from_secs" => 1_000.0,
                    "Duration::from_millis" | "Span::from_millis" => 1.0,
                    "Duration::from_micros" => 0.001,
                    _ => return None,
                };
                let argument = self.value(call.args.first()?, all)?;
                Some(Value { number: argument.number * in_ms, is_time: true })
            }
            Expr::Path(other) => {
                let mut name = path(&other.path);
                if let (Some(own), Some(of)) = (name.strip_prefix("Self::"), &self.of) {
                    name = format!("{of}::{own}");
                }
                let mut named = all.iter().filter(|other| other.name == name);
                let near = named.clone().find(|other| other.file == self.file);
                let other = near.or_else(|| named.next().filter(|_| named.next().is_none()))?;
                other.value(other.value, all)
            }
            _ => None,
        }
    }
}

fn calculate(op: &BinOp, left: Value, right: Value) -> Option<Value> {
    let number = match op {
        BinOp::Add(_) => left.number + right.number,
        BinOp::Sub(_) => left.number - right.number,
        BinOp::Mul(_) => left.number * right.number,
        BinOp::Shl(_) => left.number * right.number.exp2(),
        _ => return None,
    };
    Some(Value { number, is_time: left.is_time || right.is_time })
}

/// The last two parts of a path, or only the last where the other names a module.
fn path(path: &syn::Path) -> String {
    let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    match segments.as_slice() {
        [.., owner, name] if owner.starts_with(char::is_uppercase) => format!("{owner}::{name}"),
        [.., name] => name.clone(),
        [] => String::new(),
    }
}

/// The name of a type, or of what it is a range of.
fn scalar(ty: &Type) -> Option<String> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    if let syn::PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(syn::GenericArgument::Type(inner)) = arguments.args.first()
    {
        return scalar(inner);
    }
    Some(last.ident.to_string())
}

/// The text of a doc comment.
fn comment(attributes: &[syn::Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.collect()
}

/// The constants of some modules, before they are worth anything.
#[derive(Default)]
struct Collector<'a> {
    file: PathBuf,
    of: Option<String>,
    found: Vec<Found<'a>>,
    /// Type and comment of `Type::field`.
    fields: BTreeMap<String, (Option<String>, String)>,
}

impl<'a> Collector<'a> {
    fn add(&mut self, name: String, ty: &Type, attributes: &[syn::Attribute], value: &'a Expr) {
        if !is_for_tests(attributes) {
            self.found.push(Found {
                file: self.file.clone(),
                name,
                of: self.of.clone(),
                ty: scalar(ty),
                doc: comment(attributes),
                value,
                is_default: false,
            });
        }
    }

    /// The fields that `fn default() -> Self { Self { … } }` sets.
    fn add_defaults(&mut self, of: &str, item: &'a syn::ItemImpl) {
        let functions = item.items.iter().filter_map(|item| match item {
            syn::ImplItem::Fn(function) => function.block.stmts.last(),
            _ => None,
        });
        for statement in functions {
            let syn::Stmt::Expr(Expr::Struct(value), None) = statement else { continue };
            for field in &value.fields {
                let syn::Member::Named(name) = &field.member else { continue };
                self.found.push(Found {
                    file: self.file.clone(),
                    name: format!("{of}::{name}"),
                    of: Some(of.to_owned()),
                    ty: None,
                    doc: String::new(),
                    value: &field.expr,
                    is_default: true,
                });
            }
        }
    }
}

impl<'a> Visit<'a> for Collector<'a> {
    fn visit_item(&mut self, item: &'a syn::Item) {
        // Modules have items of their own.
        if !matches!(item, syn::Item::Mod(_)) && !is_for_tests(names::attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let Type::Path(of) = &*item.self_ty else { return };
        let Some(of) = of.path.segments.last().map(|segment| segment.ident.to_string()) else { return };
        if item.trait_.as_ref().is_some_and(|(of, _)| of.is_ident("Default")) {
            self.add_defaults(&of, item);
        }
        self.of = Some(of);
        syn::visit::visit_item_impl(self, item);
        self.of = None;
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        self.add(item.ident.to_string(), &item.ty, &item.attrs, &item.expr);
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        let name = format!("{}::{}", self.of.as_deref().unwrap_or_default(), item.ident);
        self.add(name, &item.ty, &item.attrs, &item.expr);
    }

    fn visit_item_struct(&mut self, item: &'a syn::ItemStruct) {
        for field in &item.fields {
            if let Some(name) = &field.ident {
                let named = (scalar(&field.ty), comment(&field.attrs));
                self.fields.insert(format!("{}::{name}", item.ident), named);
            }
        }
    }
}
