//! The plugins of the environment mode: every component in a folder, by what it exports.

use std::path::{Path, PathBuf};

use wasmill_plugin::{Grant, Inspection};

use super::exit::{Exit, Stop};
use super::sandbox;
use crate::spec::variables::{Found, Role, Variables};

/// Looks into each `*.wasm` of the folder that the variables name.
///
/// # Errors
/// A folder without plugins, a file that is no plugin, and one that needs what only a pipeline file can
/// grant.
pub fn look(variables: &Variables<'_>) -> Result<Vec<Found>, Stop> {
    let folder = variables.plugin_dir();
    let shown = folder.display();
    let wrong = |title: String, label: &str, help: Vec<String>| {
        Stop::problems(Exit::Usage, &variables.plugin_dir_problem(title, label, help))
    };
    let files = components(&folder).map_err(|e| {
        let title = format!("can't read the plugin folder {shown}: {e}");
        let help = vec![
            "name the folder of your plugins by PLUGIN_DIR".to_owned(),
            "or give a pipeline file: `wasmill run PIPELINE.yaml`".to_owned(),
        ];
        wrong(title, "expected a folder", help)
    })?;
    if files.is_empty() {
        let title = format!("{shown} holds no plugin");
        let mut help = vec!["without a pipeline file every NAME.wasm in this folder is applied".to_owned()];
        help.push(if holds_sources(&folder) {
            "it holds the plugins' sources: `make seed-plugins` builds them; then PLUGIN_DIR=target/seed-plugins"
                .to_owned()
        } else {
            "put your plugins there, or name another folder by PLUGIN_DIR".to_owned()
        });
        help.push("or give a pipeline file: `wasmill run PIPELINE.yaml`".to_owned());
        return Err(wrong(title, "expected a folder with *.wasm files", help));
    }
    let sandbox = sandbox::open(None, 0)?;
    let mut found = Vec::new();
    for file in files {
        let seen = sandbox.inspect(&file).map_err(|e| Stop::error(Exit::Plugin, e))?;
        found.push(use_of(&seen, &file)?);
    }
    Ok(found)
}

/// The folder's components, in the order of their names.
fn components(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // NAME@VERSION.wasm is a version of NAME.wasm, for `wasmill plugin promote`.
        let is_version = path.file_stem().and_then(|s| s.to_str()).is_some_and(|stem| stem.contains('@'));
        if path.extension().is_some_and(|e| e == "wasm") && path.is_file() && !is_version {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether the folder's folders are crates.
fn holds_sources(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|e| e.path().join("Cargo.toml")).any(|f| f.is_file())
}

fn use_of(seen: &Inspection, file: &Path) -> Result<Found, Stop> {
    let shown = file.display();
    let refused = |text: String| Err(Stop::error(Exit::Plugin, text));
    if let Some(problem) = &seen.problem {
        return refused(format!("{shown} can't be loaded: {problem}"));
    }
    let kinds = [
        (seen.kinds.transform, Role::Transform),
        (seen.kinds.filter, Role::Filter),
        (seen.kinds.aggregate, Role::Aggregate),
    ];
    let roles: Vec<Role> = kinds.iter().filter(|(has, _)| *has).map(|(_, role)| *role).collect();
    if roles.is_empty() {
        return refused(format!(
            "{shown} exports {}: expected a transform, a filter or an aggregate; take it out of the folder",
            sandbox::kinds(seen.kinds)
        ));
    }
    let needs: Vec<Grant> = seen.imports.iter().filter_map(|i| i.grant).collect();
    // The clock tells nothing and reaches nobody. State needs a key that this mode can't know.
    if let Some(other) = needs.iter().find(|g| **g != Grant::WallClock) {
        let place = if *other == Grant::State { " behind a `key_by`" } else { "" };
        return refused(format!(
            "{shown} needs the grant `{other}`, which the environment can't give; write a pipeline file with `{{ plugin: {}, grants: [{}] }}`{place}, and run it: `wasmill run PIPELINE.yaml`",
            seen.name,
            other.example()
        ));
    }
    Ok(Found { name: seen.name.clone(), roles, wall_clock: needs.contains(&Grant::WallClock) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Environment;

    fn refused(folder: &Path) -> Stop {
        let mut environment = Environment::default();
        environment.set("PLUGIN_DIR", folder.display().to_string());
        let variables = Variables::read(&environment).unwrap_or_else(|p| panic!("{p}"));
        look(&variables).expect_err("no plugins")
    }

    #[test]
    fn a_folder_without_plugins_says_what_to_do() {
        let place = tempfile::tempdir().expect("a folder");
        let stop = refused(place.path());
        assert_eq!(stop.exit, Exit::Usage);
        for part in ["holds no plugin", "PLUGIN_DIR=", "wasmill run PIPELINE.yaml"] {
            assert!(stop.shown.contains(part), "no {part:?} in\n{}", stop.shown);
        }
        let stop = refused(&place.path().join("nowhere"));
        assert!(stop.shown.contains("can't read the plugin folder"), "{}", stop.shown);
    }

    #[test]
    fn a_folder_of_sources_names_the_command_that_builds_them() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
        let stop = refused(&sources);
        assert!(stop.shown.contains("make seed-plugins"), "{}", stop.shown);
    }

    #[test]
    fn a_file_that_is_no_component_is_refused_by_its_name() {
        let place = tempfile::tempdir().expect("a folder");
        std::fs::write(place.path().join("broken.wasm"), b"not wasm").expect("written");
        let stop = refused(place.path());
        assert_eq!(stop.exit, Exit::Plugin);
        assert!(stop.shown.contains("broken"), "{}", stop.shown);
    }
}
