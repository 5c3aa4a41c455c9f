//! The file's part of the configuration, which becomes a whole with the objects of the API and what was set by hand.

use super::objects::micros;
use crate::config::{self, Compiled, ConfigErrors, HostDefaults, Imports, Loaded, Source};
use crate::objects::{Catalog, FileObjects, Id, Rendered, Stored, render};
use lb_core::model::Config;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A file that is valid by itself.
#[derive(Debug)]
pub struct FilePart {
    pub(super) source: Arc<Source>,
    imports: Imports,
    edge_ips: Vec<IpAddr>,
    objects: Arc<FileObjects>,
}

/// What could be made of a file with objects some of which may not fit to it.
pub(super) struct Fitting {
    pub config: Config,
    pub left_out: BTreeSet<Id>,
    /// What the operator must know of them.
    pub problems: Vec<String>,
}

impl FilePart {
    pub(super) fn new(loaded: &Loaded) -> Self {
        Self {
            source: Arc::clone(&loaded.file),
            imports: loaded.imports.clone(),
            edge_ips: loaded.config.api.edge_ips.clone(),
            objects: Arc::new(FileObjects::new(&loaded.file, micros(loaded.modified))),
        }
    }

    /// Its objects together with others. Overrides of what it does not declare are dropped.
    pub(super) fn with(&self, stored: &Stored) -> Catalog {
        let overrides = Arc::clone(&stored.overrides);
        Catalog::with(Arc::clone(&self.objects), stored.objects.clone(), overrides)
    }

    /// The configuration with these objects: the one way to it, whatever is to come into force or to be compared.
    ///
    /// # Errors
    /// Everything that is wrong with it, and where that stands among the objects.
    pub(super) fn compile(
        &self,
        catalog: &Catalog,
        left_out: &BTreeSet<Id>,
    ) -> Result<Compiled, (Rendered, ConfigErrors)> {
        let rendered = render(catalog, &self.edge_ips, left_out);
        let defaults = HostDefaults::of_this_machine();
        let compiled = config::compile(&self.source, Some(&rendered.source), &self.imports, &defaults);
        let mut compiled = compiled.map_err(|errors| (rendered, errors))?;
        catalog.overrides().apply(&mut compiled.config);
        Ok(compiled)
    }

    /// The same without the objects that do not fit; `of_file`: the configuration of the file alone.
    pub(super) fn compile_fitting(&self, catalog: &Catalog, of_file: &Config) -> Fitting {
        let (mut left_out, mut problems) = (BTreeSet::new(), Vec::new());
        loop {
            let (rendered, errors) = match self.compile(catalog, &left_out) {
                Ok(Compiled { config, .. }) => {
                    return Fitting {
                        config,
                        left_out,
                        problems,
                    };
                }
                Err(refused) => refused,
            };
            let before = left_out.len();
            for error in &errors.errors {
                if let Some((kind, id, _)) = rendered.place(error)
                    && left_out.insert(id.clone())
                {
                    let title = catalog.get(kind, id).map_or("", |entry| entry.title());
                    problems.push(format!(
                        "{} `{title}` is not in force: {}",
                        kind.noun(),
                        error.message
                    ));
                }
            }
            if left_out.len() == before {
                // An error in the file about an object of the API: nobody knows which one.
                left_out.extend(catalog.of_api().iter().map(|entry| entry.id.clone()));
                problems.push(format!("no object of the API is in force: {errors}"));
                let mut config = of_file.clone();
                catalog.overrides().apply(&mut config);
                return Fitting {
                    config,
                    left_out,
                    problems,
                };
            }
        }
    }

    /// The configuration of the file alone.
    ///
    /// # Errors
    /// What is wrong with it by now: files that it names may have changed.
    pub(super) fn compile_alone(&self) -> Result<Config, ConfigErrors> {
        let defaults = HostDefaults::of_this_machine();
        let compiled = config::compile(&self.source, None, &self.imports, &defaults);
        compiled.map(|compiled| compiled.config)
    }
}
