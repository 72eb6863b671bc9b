//! The modules of a crate, and what each imports of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::paths::paths;

/// Module → its file below the repository's root, and its text.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<Vec<String>, (String, String)>);

/// A module names another, or something in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) from: Vec<String>,
    /// The module that it is in, or that it is.
    pub(super) to: Vec<String>,
    /// File and line.
    pub(super) place: String,
}

impl Sources {
    /// Reads every file of `folder`, which is below `root`.
    pub(super) fn read(root: &Path, folder: &str) -> Result<Self> {
        let mut sources = Self::default();
        sources.folder(&root.join(folder), folder, &[])?;
        Ok(sources)
    }

    fn folder(&mut self, path: &Path, shown: &str, module: &[String]) -> Result<()> {
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", path.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (path, shown) = (entry.path(), format!("{shown}/{name}"));
            if path.is_dir() {
                self.folder(&path, &shown, &[module, &[name]].concat())?;
            } else if let Some(name) = name.strip_suffix(".rs") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                self.add(module, name, shown, text);
            }
        }
        Ok(())
    }

    /// A file `name` in the folder of `module`.
    pub(super) fn add(&mut self, module: &[String], name: &str, shown: String, text: String) {
        let module = match name {
            "mod" => module.to_vec(),
            "lib" | "main" if module.is_empty() => Vec::new(),
            name => [module, &[name.to_owned()]].concat(),
        };
        self.0.insert(module, (shown, text));
    }

    /// The modules of the crate's root.
    pub(super) fn rooms(&self) -> BTreeSet<String> {
        self.0.keys().filter_map(|m| m.first()).cloned().collect()
    }

    /// Root files say which modules there are, and are in none of them.
    pub(super) fn imports(&self) -> Vec<Import> {
        let modules = self.0.iter().filter(|(module, _)| !module.is_empty());
        let all = modules.flat_map(|(module, (shown, text))| {
            paths(text, module).into_iter().map(move |path| Import {
                from: module.clone(),
                to: self.module_of(path.names),
                place: format!("{shown}:{}", path.line),
            })
        });
        all.collect()
    }

    fn module_of(&self, mut names: Vec<String>) -> Vec<String> {
        while !names.is_empty() && !self.0.contains_key(&names) {
            names.pop();
        }
        names
    }
}
