//! What wit-bindgen makes of the contract: one module for the imports, one for each kind of export,
//! so that a plugin carries the type of its own exports alone and no import that it does not use.
#![allow(unsafe_code, missing_docs, clippy::all)]

pub mod imports {
    wit_bindgen::generate!({ path: "../../wit/0.1.0", world: "all-imports" });
}

macro_rules! exports {
    ($($module:ident: $inline:literal;)*) => { $(
        pub mod $module {
            wit_bindgen::generate!({
                path: "../../wit/0.1.0",
                inline: $inline,
                pub_export_macro: true,
                generate_all,
            });
        }
    )* };
}

exports! {
    transform: "package wasmill:guest-transform; world guest-transform { export wasmill:plugin/transform@0.1.0; }";
    filter: "package wasmill:guest-filter; world guest-filter { export wasmill:plugin/filter@0.1.0; }";
    aggregate: "package wasmill:guest-aggregate; world guest-aggregate { export wasmill:plugin/aggregate@0.1.0; }";
    scan: "package wasmill:guest-scan; world guest-scan { export wasmill:plugin/scan@0.1.0; }";
    migrate: "package wasmill:guest-migrate; world guest-migrate { export wasmill:plugin/migrate@0.1.0; }";
}
