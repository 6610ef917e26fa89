//! The macros that make a plugin of a function or a type.

/// Makes a transform of `fn(&mut Message) -> Result<Verdict>`.
#[macro_export]
macro_rules! transform {
    ($function:path) => {
        const _: fn(&mut $crate::Message) -> $crate::Result<$crate::Verdict> = $function;
        $crate::__export_transform!($crate::__guest::transform, $function);
    };
}

/// Makes a transform of `fn(&mut Batch) -> Result<()>`: for bulk calls to the host's state.
#[macro_export]
macro_rules! transform_batch {
    ($function:path) => {
        const _: fn(&mut $crate::Batch) -> $crate::Result<()> = $function;
        $crate::__export_transform!($crate::__guest::transform_batch, $function);
    };
}

/// Makes a filter of `fn(&Message) -> Result<bool>`.
#[macro_export]
macro_rules! filter {
    ($function:path) => {
        const _: fn(&$crate::Message) -> $crate::Result<bool> = $function;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::__guest::bindings::filter as world;
            struct Plugin;
            impl world::exports::wasmill::plugin::filter::Guest for Plugin {
                fn process(frame: ::std::vec::Vec<u8>) -> $crate::__guest::Bytes {
                    $crate::__guest::filter($function, &frame)
                }
            }
    world::export!(Plugin with_types_in world);
        };
    };
}

/// Makes an aggregate of a type that is an [`Aggregate`](crate::Aggregate); with `, migrate` of one
/// that is [`Migrate`](crate::Migrate) too.
#[macro_export]
macro_rules! aggregate {
    ($type:ty) => {
        const _: () = $crate::__guest::is_aggregate::<$type>();
        $crate::__export_aggregate!($type);
    };
    ($type:ty, migrate) => {
        $crate::aggregate!($type);
        $crate::__export_migrate!($type);
    };
}

/// Makes an aggregate of a type that is a [`Scan`](crate::Scan): one that answers for each message
/// too; with `, migrate` of one that is [`Migrate`](crate::Migrate) too.
#[macro_export]
macro_rules! scan {
    ($type:ty) => {
        $crate::aggregate!($type);
        $crate::__export_scan!($type);
    };
    ($type:ty, migrate) => {
        $crate::scan!($type);
        $crate::__export_migrate!($type);
    };
}

/// Declares the schemas of the payloads that a plugin takes and makes, as files of JSON Schema whose paths start from
/// the file that this stands in: `declare!(input: "flight.json", output: "delay.json")`, or one of the two. `wasmill
/// check` compares them with what comes before and behind the plugin in a pipeline.
#[macro_export]
macro_rules! declare {
    ($(input: $input:literal)? $(,)? $(output: $output:literal)? $(,)?) => {
        #[allow(unsafe_code, reason = "a section's name can't be checked by the compiler")]
        const _: () = {
            $(
                #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "wasmill:input"))]
                #[used]
                static INPUT: [u8; include_bytes!($input).len()] = *include_bytes!($input);
            )?
            $(
                #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "wasmill:output"))]
                #[used]
                static OUTPUT: [u8; include_bytes!($output).len()] = *include_bytes!($output);
            )?
        };
    };
}

/// Carries test cases in the plugin, of a file whose path starts from the file that this stands in: once a plugin. The
/// host runs them before it takes the plugin in, with the config of its stage where a case has none, and refuses it
/// where one fails. How they are written is told by `wasmill test --format`.
#[macro_export]
macro_rules! cases {
    ($file:literal) => {
        #[allow(unsafe_code, reason = "a section's name can't be checked by the compiler")]
        const _: () = {
            #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "wasmill:cases"))]
            #[used]
            static CASES: [u8; include_bytes!($file).len()] = *include_bytes!($file);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_transform {
    ($run:path, $function:path) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::__guest::bindings::transform as world;
            struct Plugin;
            impl world::exports::wasmill::plugin::transform::Guest for Plugin {
                fn process(frame: ::std::vec::Vec<u8>) -> $crate::__guest::Bytes {
                    $run($function, &frame)
                }
            }
    world::export!(Plugin with_types_in world);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_aggregate {
    ($type:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use world::exports::wasmill::plugin::aggregate::{Description, Guest};
            use $crate::__guest::bindings::aggregate as world;
            struct Plugin;
            impl Guest for Plugin {
                fn describe() -> Description {
                    Description {
                        commutative: <$type as $crate::Aggregate>::COMMUTATIVE,
                        state_version: <$type as $crate::Aggregate>::STATE_VERSION,
                        initial: $crate::__guest::initial::<$type>(),
                    }
                }
                fn fold(frame: ::std::vec::Vec<u8>, groups: ::std::vec::Vec<u8>) -> $crate::__guest::Bytes {
                    $crate::__guest::fold::<$type>(&frame, &groups)
                }
                fn merge(accumulators: ::std::vec::Vec<u8>) -> $crate::__guest::Bytes {
                    $crate::__guest::merge::<$type>(&accumulators)
                }
                fn finish(accumulators: ::std::vec::Vec<u8>) -> $crate::__guest::Bytes {
                    $crate::__guest::finish::<$type>(&accumulators)
                }
            }
    world::export!(Plugin with_types_in world);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_scan {
    ($type:ty) => {
        const _: () = $crate::__guest::is_scan::<$type>();
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::__guest::bindings::scan as world;
            struct Plugin;
            impl world::exports::wasmill::plugin::scan::Guest for Plugin {
                fn scan(
                    frame: ::std::vec::Vec<u8>,
                    groups: ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<(::std::vec::Vec<u8>, ::std::vec::Vec<u8>), ::std::string::String>
                {
                    $crate::__guest::scan::<$type>(&frame, &groups)
                }
            }
    world::export!(Plugin with_types_in world);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_migrate {
    ($type:ty) => {
        const _: () = $crate::__guest::is_migrate::<$type>();
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::__guest::bindings::migrate as world;
            struct Plugin;
            impl world::exports::wasmill::plugin::migrate::Guest for Plugin {
                fn migrate(from_version: u32, accumulators: ::std::vec::Vec<u8>) -> $crate::__guest::Bytes {
                    $crate::__guest::migrate::<$type>(from_version, &accumulators)
                }
            }
    world::export!(Plugin with_types_in world);
        };
    };
}

/// What the macros reach: no part of the SDK's promise.
#[doc(hidden)]
pub mod __guest {
    pub use crate::aggregate::{finish, fold, initial, merge, migrate, scan};
    #[cfg(target_arch = "wasm32")]
    pub use crate::bindings;
    pub use crate::stage::{filter, transform, transform_batch};

    /// What a call answers.
    pub type Bytes = Result<Vec<u8>, String>;

    /// Compiles for an aggregate alone, so that a native build finds the mistake too.
    pub const fn is_aggregate<A: crate::Aggregate>() {}
    /// Compiles for a scan alone.
    pub const fn is_scan<A: crate::Scan>() {}
    /// Compiles for a migration alone.
    pub const fn is_migrate<A: crate::Migrate>() {}
}
