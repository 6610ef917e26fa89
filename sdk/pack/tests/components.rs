//! The built plugins import what they use and nothing else, and export their own kind alone.

use std::path::Path;
use std::process::Command;

use wit_component::DecodedWasm;

fn imports_and_exports(component: &Path) -> (String, String) {
    let bytes = std::fs::read(component).expect("a built component");
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&bytes).expect("a component") else {
        panic!("{} is not a component", component.display());
    };
    let names = |keys: Vec<String>| {
        // Types alone are no capability.
        let keys = keys.into_iter().filter(|k| !k.contains("-types@"));
        let mut names: Vec<_> = keys
            .map(|k| k.trim_start_matches("wasmill:plugin/").trim_end_matches("@0.1.0").to_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    let world = &resolve.worlds[world];
    let imports = world.imports.keys().map(|k| resolve.name_world_key(k)).collect();
    let exports = world.exports.keys().map(|k| resolve.name_world_key(k)).collect();
    (names(imports), names(exports))
}

#[test]
fn a_plugin_imports_what_it_uses_and_the_log_for_its_panics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = Command::new(root.join("scripts/build-plugins.sh")).status().expect("the script runs");
    assert!(built.success());
    for (component, imports, exports) in [
        ("plugins/enrich", "log", "transform"),
        ("plugins/drop-ignored", "log", "filter"),
        ("plugins/delay-stats", "log", "aggregate"),
        ("plugins/count-types", "log", "aggregate scan"),
        ("plugins/processed-at", "log wall-clock", "transform"),
        ("programs/seed-job", "log", "transform"),
        ("programs/stateful", "log state", "transform"),
    ] {
        let found = imports_and_exports(&root.join(format!("target/{component}.wasm")));
        assert_eq!(found, (imports.to_owned(), exports.to_owned()), "{component}");
    }
}

#[test]
fn no_path_of_the_building_machine_is_left_in_a_plugin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = Command::new(root.join("scripts/build-plugins.sh")).status().expect("the script runs");
    assert!(built.success());
    let bytes = std::fs::read(root.join("target/plugins/enrich.wasm")).expect("a built component");
    let root = std::fs::canonicalize(root).expect("the checkout");
    let places = [root, std::env::home_dir().expect("a home").join(".cargo")];
    for place in places {
        let place = place.to_str().expect("a path that is text").as_bytes();
        assert!(!bytes.windows(place.len()).any(|w| w == place), "{}", String::from_utf8_lossy(place));
    }
}
