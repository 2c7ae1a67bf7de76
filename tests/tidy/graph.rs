//! The graph of the crate's modules: an edge for every path in one file that names an item of another. A path counts for the
//! file that defines the item; imports and re-exports are followed. A re-export of a child's item is no edge, nor is an
//! import of a module alone: the paths that begin with it are. Tests are left out.
//!
//! Limits: the contents of macro calls are read as tokens, from which paths are taken; a glob is an edge to
//! its module, and the names through it are not resolved.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

use super::Source;

/// A module's path from the crate's root: `["io", "gguf"]`.
pub type Path = Vec<String>;

/// From each module to the modules that it names.
pub type Graph = BTreeMap<Path, BTreeSet<Path>>;

/// A file's names and paths.
#[derive(Default)]
struct Module {
    /// Items that it defines.
    items: HashSet<String>,
    /// Names that it imports or re-exports, with the paths as written.
    imports: HashMap<String, Path>,
    /// Paths that it uses.
    paths: Vec<Path>,
    /// Paths that it re-exports.
    reexports: Vec<Path>,
}

/// Every module of the crate by its path.
pub struct Modules(HashMap<Path, Module>);

impl Modules {
    /// Parses the sources of the crate.
    pub fn parse(sources: &[Source]) -> Modules {
        let sources = sources.iter().filter(|source| source.path.starts_with("src/") && !source.is_test());
        let sources = sources.filter(|source| source.path != "src/main.rs");
        Modules(sources.map(|source| (module_path(&source.path), Module::parse(source))).collect())
    }

    /// The graph of all files.
    pub fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (path, module) in &self.0 {
            let definition = |used: &Path| self.definition(path, used, 0).filter(|target| target != path);
            // A child is a part of its module: to re-export its items uses nothing else.
            let reexports = module.reexports.iter().filter_map(definition);
            let reexports = reexports.filter(|target| !target.starts_with(path));
            graph.insert(path.clone(), module.paths.iter().filter_map(definition).chain(reexports).collect());
        }
        graph
    }

    /// The module that defines the item of a path which `module` uses; `None` for other crates and for modules alone.
    fn definition(&self, module: &Path, used: &[String], depth: usize) -> Option<Path> {
        let absolute = self.absolute(module, used)?;
        let known = (0..=absolute.len()).rev().find(|n| self.0.contains_key(&absolute[..*n]))?;
        let (found, rest) = absolute.split_at(known);
        let item = rest.first()?;
        let found = found.to_vec();
        let import = self.0[&found].imports.get(item).filter(|_| !self.0[&found].items.contains(item));
        match import {
            Some(import) if depth < 16 => {
                let whole = [import.as_slice(), &rest[1..]].concat();
                self.definition(&found, &whole, depth + 1).or(Some(found))
            }
            _ => Some(found),
        }
    }

    /// A path from the crate's root; `None` for a path of another crate.
    fn absolute(&self, module: &Path, used: &[String]) -> Option<Path> {
        let first = used.first()?.as_str();
        if first == "crate" {
            return Some(used[1..].to_vec());
        }
        let supers = used.iter().take_while(|part| *part == "super").count();
        if first == "self" || supers > 0 {
            let base = &module[..module.len().checked_sub(supers)?];
            return Some([base, &used[supers.max(1)..]].concat());
        }
        let child = [module.as_slice(), &used[..1]].concat();
        let own = &self.0[module];
        let known =
            own.imports.contains_key(first) || own.items.contains(first) || self.0.contains_key(&child);
        known.then(|| [module.as_slice(), used].concat())
    }
}

/// `src/io/gguf/mod.rs` and `src/io/gguf.rs` are `["io", "gguf"]`, `src/lib.rs` is the root.
fn module_path(file: &str) -> Path {
    let inside = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if inside == "lib" { Path::new() } else { inside.split('/').map(str::to_owned).collect() }
}

impl Module {
    fn parse(source: &Source) -> Module {
        let file = syn::parse_file(&source.text).unwrap_or_else(|e| panic!("{}: {e}", source.path));
        let mut module = Module::default();
        module.visit_file(&file);
        module
    }

    /// Notes the names that a `use` brings into scope. A private one is a path, too.
    fn import(&mut self, tree: &UseTree, prefix: &[String], reexports: bool) {
        match tree {
            UseTree::Path(path) => {
                let prefix = [prefix, &[path.ident.to_string()]].concat();
                self.import(&path.tree, &prefix, reexports);
            }
            UseTree::Name(name) if name.ident == "self" => self.bind(prefix, prefix.last(), reexports),
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.bind(&[prefix, std::slice::from_ref(&name)].concat(), Some(&name), reexports);
            }
            UseTree::Rename(rename) => {
                let path = [prefix, &[rename.ident.to_string()]].concat();
                self.bind(&path, Some(&rename.rename.to_string()), reexports);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, prefix, reexports));
            }
            UseTree::Glob(_) => self.bind(&[prefix, &["*".to_owned()]].concat(), None, reexports),
        }
    }

    fn bind(&mut self, path: &[String], name: Option<&String>, reexports: bool) {
        self.imports.extend(name.map(|name| (name.clone(), path.to_vec())));
        let paths = if reexports { &mut self.reexports } else { &mut self.paths };
        paths.push(path.to_vec());
    }

    /// Takes the paths out of the tokens of a macro call.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Path = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 || path.is_empty() => path.push(ident.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                other => {
                    self.take(&mut path);
                    match other {
                        TokenTree::Ident(ident) => path.push(ident.to_string()),
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.take(&mut path);
    }

    fn take(&mut self, path: &mut Path) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.paths.push(path);
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let cfg = attribute.path().is_ident("cfg").then(|| attribute.meta.require_list());
        cfg.is_some_and(|list| list.is_ok_and(|list| list.tokens.to_string().starts_with("test")))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

impl Visit<'_> for Module {
    fn visit_item(&mut self, item: &Item) {
        if is_test(attributes(item)) {
            return;
        }
        self.items.extend(name(item));
        match item {
            Item::Use(item) => {
                let reexports = !matches!(item.vis, Visibility::Inherited);
                self.import(&item.tree, &[], reexports);
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let parts: Path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.paths.push(parts);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.tokens(call.tokens.clone());
    }
}

/// The graph between top-level modules.
pub fn rooms(graph: &Graph) -> Graph {
    let mut rooms = Graph::new();
    for (module, targets) in graph.iter().filter(|(module, _)| !module.is_empty()) {
        let room = rooms.entry(module[..1].to_vec()).or_default();
        let targets = targets.iter().filter(|target| !target.is_empty() && target[0] != module[0]);
        room.extend(targets.map(|target| target[..1].to_vec()));
    }
    rooms
}

/// The floor of each module: 0 if it names no other, else one above the highest that it names. Modules in a cycle, and those
/// that name them, have none.
pub fn floors(graph: &Graph) -> BTreeMap<Path, usize> {
    let mut floors: BTreeMap<Path, usize> = BTreeMap::new();
    loop {
        let ready = graph.iter().filter(|(module, _)| !floors.contains_key(*module));
        let ready: Vec<(Path, usize)> = ready
            .filter_map(|(module, targets)| {
                let below: Option<Vec<usize>> =
                    targets.iter().map(|target| floors.get(target).copied()).collect();
                Some((module.clone(), below?.into_iter().max().map_or(0, |floor| floor + 1)))
            })
            .collect();
        if ready.is_empty() {
            return floors;
        }
        floors.extend(ready);
    }
}

/// A shortest cycle through each module that is in one, without repetitions; empty if there is none.
pub fn cycles(graph: &Graph) -> Vec<Vec<Path>> {
    let mut found: Vec<Vec<Path>> = Vec::new();
    for start in graph.keys() {
        let Some(cycle) = cycle_through(graph, start) else { continue };
        let members: BTreeSet<&Path> = cycle.iter().collect();
        if found.iter().all(|other| other.iter().collect::<BTreeSet<_>>() != members) {
            found.push(cycle);
        }
    }
    found
}

fn cycle_through(graph: &Graph, start: &Path) -> Option<Vec<Path>> {
    let mut from: HashMap<&Path, &Path> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for target in graph.get(module).into_iter().flatten() {
            if target == start {
                let mut cycle = vec![module.clone()];
                let mut at = module;
                while at != start {
                    at = from[at];
                    cycle.push(at.clone());
                }
                cycle.reverse();
                return Some(cycle);
            }
            if !from.contains_key(target) {
                from.insert(target, module);
                queue.push_back(target);
            }
        }
    }
    None
}
