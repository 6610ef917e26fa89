//! Where the project and what was built of it lie.

use std::path::{Path, PathBuf};

/// The project's root.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The folder that cargo builds into.
#[must_use]
pub fn target() -> PathBuf {
    // A test is target/release/deps/NAME, a binary target/release/NAME.
    let built = std::env::current_exe().ok();
    let profile = built.as_deref().and_then(Path::parent).map(|folder| match folder.ends_with("deps") {
        true => folder.parent().unwrap_or(folder),
        false => folder,
    });
    profile.and_then(Path::parent).map_or_else(|| root().join("target"), Path::to_owned)
}

/// The binary under test: WASMILL_BIN, else the one that was built beside this test.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn binary() -> PathBuf {
    let path = match std::env::var_os("WASMILL_BIN") {
        Some(path) => PathBuf::from(path),
        None => target().join("release/wasmill"),
    };
    assert!(
        path.is_file(),
        "there is no {}: run `cargo build --release -p wasmill`, or name one by WASMILL_BIN",
        path.display()
    );
    path
}

/// A plugin or guest program by its file's name, without the ending.
///
/// # Panics
/// Where it is not built.
#[must_use]
pub fn plugin(name: &str) -> PathBuf {
    let built = ["plugins", "programs"].map(|folder| target().join(folder).join(format!("{name}.wasm")));
    let with = match name {
        "typed-js" => "scripts/build-typed-js.sh",
        "typed-py" => "scripts/build-typed-py.sh",
        _ => "scripts/build-plugins.sh",
    };
    match built.iter().find(|path| path.is_file()) {
        Some(path) => path.clone(),
        None => panic!("the plugin {name} is not built: run {with}"),
    }
}

/// The compile cache that the tests share, so that a plugin is compiled once.
#[must_use]
pub fn cache() -> PathBuf {
    target().join("test-cache")
}
