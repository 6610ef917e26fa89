//! A plugin called by the same wasmtime without limits, with deadline ticks or without, to tell what they cost. Nothing bounds it:
//! it is no way to run a stranger's code.

use std::path::Path;

use wasmill_engine::guest::{CallContext, CallError, Guest, GuestInfo, Kinds, Plugin, Trial};
use wasmtime::component::{Component, ComponentExportIndex, Instance, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Store};

/// Whether the code looks at each of its loops whether its time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticks {
    /// It does.
    On,
    /// It doesn't.
    Off,
}

/// A transform in the frames width.
pub struct Untimed {
    info: GuestInfo,
    engine: Engine,
    component: Component,
}

impl Untimed {
    /// Compiles a plugin as host/plugin does, with ticks that never come or without any.
    pub fn load(path: &Path, ticks: Ticks) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config
            .cranelift_nan_canonicalization(true)
            .relaxed_simd_deterministic(true)
            .concurrency_support(false)
            .memory_init_cow(true)
            .epoch_interruption(ticks == Ticks::On)
            .allocation_strategy(InstanceAllocationStrategy::pooling());
        let engine = Engine::new(&config)?;
        let component = Component::from_file(&engine, path)?;
        let kinds = Kinds { transform: true, ..Kinds::default() };
        Ok(Self {
            info: GuestInfo { name: "untimed".into(), kinds, ..GuestInfo::default() },
            engine,
            component,
        })
    }

    fn live(&self) -> wasmtime::Result<Live> {
        let mut linker = Linker::new(&self.engine);
        linker.define_unknown_imports_as_traps(&self.component)?;
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = linker.instantiate(&mut store, &self.component)?;
        let face = self.component.get_export_index(None, "wasmill:plugin/transform@0.1.0");
        let process = face.and_then(|face| self.component.get_export_index(Some(&face), "process"));
        let process = process.ok_or_else(|| wasmtime::Error::msg("it exports no transform"))?;
        Ok(Live { store, instance, process })
    }
}

impl Plugin for Untimed {
    fn info(&self) -> &GuestInfo {
        &self.info
    }

    fn guest(&self) -> Box<dyn Guest> {
        match self.live() {
            Ok(live) => Box::new(live),
            Err(error) => panic!("the plugin can't be instantiated: {error:#}"),
        }
    }
}

struct Live {
    store: Store<()>,
    instance: Instance,
    process: ComponentExportIndex,
}

type Answer = Result<Vec<u8>, CallError>;

impl Guest for Live {
    fn transform(&mut self, frame: &[u8], _: &mut CallContext, _: Trial) -> Answer {
        let mut call = || -> wasmtime::Result<Result<Vec<u8>, String>> {
            let (instance, store) = (self.instance, &mut self.store);
            let function =
                instance.get_typed_func::<(&[u8],), (Result<Vec<u8>, String>,)>(&mut *store, self.process)?;
            Ok(function.call(store, (frame,))?.0)
        };
        call().map_err(|e| CallError::Trap(format!("{e:#}")))?.map_err(CallError::Refused)
    }
}
