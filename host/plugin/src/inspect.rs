//! What a plugin's file says of itself, for `wasmill plugin inspect`.

use std::path::Path;

use wasmill_engine::guest::{AggregateInfo, Kinds};

use crate::admission::{self, AdmissionError, Need};
use crate::contract::{self, CONTRACT_VERSION, Width};
use crate::grants::{Grant, Grants};
use crate::outline::Declared;
use crate::sandbox::{Sandbox, StageConfig, digest, name_of};
use crate::text::tame;

/// The longest name that is told: of a file that nobody has compiled it may be any text.
const NAME_BYTES_MAX: usize = 256;

/// One import, and whether a plugin may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportNeed {
    /// Its full name, on one line, its end left out where it is very long.
    pub name: String,
    /// The grant that it needs, if it needs one.
    pub grant: Option<Grant>,
    /// Whether wasmill has it at all.
    pub known: bool,
}

/// What a plugin's file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its name: the file's, without the ending.
    pub name: String,
    /// The version that its metadata names.
    pub version: Option<String>,
    /// The SHA-256 of the file.
    pub digest: String,
    /// The file's size.
    pub size_bytes: usize,
    /// The version of the plugin contract that it speaks.
    pub contract: &'static str,
    /// Everything that it exports.
    pub exports: Vec<String>,
    /// What of that wasmill calls.
    pub kinds: Kinds,
    /// The widths of the interfaces that wasmill calls.
    pub widths: Vec<Width>,
    /// What it imports.
    pub imports: Vec<ImportNeed>,
    /// What made it: (field, name, version), as toolchains note it.
    pub producers: Vec<(String, String, String)>,
    /// What its aggregate says of itself.
    pub aggregate: Option<AggregateInfo>,
    /// The schemas that it declares of payloads.
    pub declared: Declared,
    /// The bytes of the self-test cases that it carries.
    pub cases_bytes: usize,
    /// Why it could not be loaded even with every grant.
    pub problem: Option<String>,
}

/// Which plugin a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name: the file's, without the ending.
    pub name: String,
    /// The version that its metadata names.
    pub version: Option<String>,
    /// The SHA-256 of the file.
    pub digest: String,
}

impl Sandbox {
    /// Which plugin a file is; nothing is compiled.
    ///
    /// # Errors
    /// When the file can't be read, or is no component that exports what wasmill calls.
    pub fn identify(&self, path: &Path) -> Result<Identity, AdmissionError> {
        let (name, bytes) = (name_of(path), admission::read_file(path, self.limits())?);
        let version = admission::check_form(&name, &bytes, self.limits())?.outline.version;
        Ok(Identity { name, version, digest: digest(&bytes) })
    }

    /// The schemas that a plugin's file declares.
    ///
    /// # Errors
    /// When the file can't be read, or is no component that exports what wasmill calls.
    pub fn declared(&self, path: &Path) -> Result<Declared, AdmissionError> {
        let bytes = admission::read_file(path, self.limits())?;
        Ok(admission::check_form(&name_of(path), &bytes, self.limits())?.outline.declared)
    }

    /// The self-test cases that a plugin's file carries: the text of each section.
    ///
    /// # Errors
    /// As of [`Sandbox::declared`].
    pub fn cases_in(&self, path: &Path) -> Result<Vec<Vec<u8>>, AdmissionError> {
        let bytes = admission::read_file(path, self.limits())?;
        Ok(admission::check_form(&name_of(path), &bytes, self.limits())?.outline.cases)
    }

    /// Looks at a plugin's file: reads it, and loads it with every grant to ask its aggregate.
    ///
    /// # Errors
    /// When the file can't be read, or is no component that exports what wasmill calls.
    pub fn inspect(&self, path: &Path) -> Result<Inspection, AdmissionError> {
        let bytes = admission::read_file(path, self.limits())?;
        let name = name_of(path);
        let admitted = admission::check_form(&name, &bytes, self.limits())?;
        let mut widths: Vec<Width> = Vec::new();
        for (_, _, width) in &admitted.exports {
            if !widths.contains(width) {
                widths.push(*width);
            }
        }
        let import = |name: &String| {
            let need = admission::need(name);
            let grant = if let Need::Grant(grant) = need { Some(grant) } else { None };
            ImportNeed {
                name: tame(name, NAME_BYTES_MAX),
                grant,
                known: grant.is_some() || need == Need::Nothing,
            }
        };
        let loaded = self.load_bytes(&name, &bytes, &Grants::all(), StageConfig::new());
        let (aggregate, problem) = match loaded {
            Ok(plugin) => (plugin.info().aggregate.clone(), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Inspection {
            version: admitted.outline.version.clone(),
            digest: digest(&bytes),
            size_bytes: bytes.len(),
            contract: CONTRACT_VERSION,
            exports: admitted.outline.exports.iter().map(|name| tame(name, NAME_BYTES_MAX)).collect(),
            kinds: contract::kinds(admitted.exports.iter().map(|(_, role, _)| *role)),
            widths,
            imports: admitted.outline.imports.iter().map(import).collect(),
            producers: admitted.outline.producers.clone(),
            declared: admitted.outline.declared.clone(),
            cases_bytes: admitted.outline.cases.iter().map(Vec::len).sum(),
            aggregate,
            problem,
            name,
        })
    }
}
