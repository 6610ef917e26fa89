//! A loaded plugin: compiled for production and for verdicts.

use std::sync::Arc;

use wasmill_engine::guest::{AnswerBounds, Guest, GuestInfo, Plugin};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower};

use crate::context::{Ctx, Shared};
use crate::contract::{Role, Width};
use crate::engines::Mode;
use crate::grants::Grants;
use crate::guest::{Live, WasmGuest};
use crate::hidden;
use crate::imports;
use crate::instances::Instances;
use crate::sandbox::Host;
use crate::typed;

/// A plugin that was admitted.
pub(crate) struct Loaded {
    /// Its ticks go on for as long as there is a plugin.
    #[allow(dead_code, reason = "it is held, not asked")]
    pub host: Arc<Host>,
    pub info: GuestInfo,
    pub shared: Arc<Shared>,
    pub grants: Grants,
    pub wasm: Arc<[u8]>,
    pub production: Prepared,
    pub verdict: Prepared,
    pub instances: Instances<Live>,
    /// The self-test cases that it carries.
    pub cases: Vec<Vec<u8>>,
}

impl Loaded {
    /// What instances of this mode are made from. Both are compiled at admission: what a plugin brings along must
    /// not fail when its first message is to be judged.
    pub fn prepared(&self, mode: Mode) -> &Prepared {
        match mode {
            Mode::Production => &self.production,
            Mode::Verdict => &self.verdict,
        }
    }
}

/// The engine's view of a plugin.
pub(crate) struct LoadedRef(pub Arc<Loaded>);

impl Plugin for LoadedRef {
    fn info(&self) -> &GuestInfo {
        &self.0.info
    }

    fn guest(&self) -> Box<dyn Guest> {
        let guest = Box::new(WasmGuest::new(Arc::clone(&self.0)));
        hidden::without_secrets(guest, &self.0.shared.behind.secrets)
    }

    fn bounds(&self) -> AnswerBounds {
        let limits = &self.0.shared.limits;
        AnswerBounds {
            outputs_max: limits.outputs_max,
            copies_bytes_max: limits.copies_bytes_max,
            results_bytes_max: limits.answer_bytes_max.saturating_add(limits.copies_bytes_max),
            hides_names: self.0.info.has_secrets,
            ..AnswerBounds::default()
        }
    }
}

/// A component with its imports resolved and its exports checked.
pub(crate) struct Prepared {
    pub pre: InstancePre<Ctx>,
    pub transform: Option<Export>,
    pub filter: Option<Export>,
    pub scan: Option<Export>,
    pub migrate: Option<Export>,
    pub aggregate: Option<AggregateExports>,
}

/// One exported function.
pub(crate) type Export = (Width, ComponentExportIndex);

/// The functions of an aggregate.
pub(crate) struct AggregateExports {
    pub width: Width,
    pub describe: ComponentExportIndex,
    pub fold: ComponentExportIndex,
    pub merge: ComponentExportIndex,
    pub finish: ComponentExportIndex,
}

impl Prepared {
    /// Resolves imports and checks the exports' types.
    pub fn new(
        component: &Component,
        grants: &Grants,
        exports: &[(String, Role, Width)],
    ) -> Result<Self, String> {
        let linker = imports::linker(component, grants).map_err(|e| format!("{e:#}"))?;
        let pre = linker.instantiate_pre(component).map_err(|e| format!("{e:#}"))?;
        let finder = Finder { component, pre: &pre };
        // Where a plugin exports both widths, frames are the cheaper.
        let find = |role| {
            let of_role = exports.iter().filter(move |(_, r, _)| *r == role);
            of_role
                .min_by_key(|(_, _, width)| *width == Width::Typed)
                .map(|(name, _, width)| (name.as_str(), *width))
        };
        let one = |role, check: fn(&Finder<'_>, &str, Width) -> Result<ComponentExportIndex, String>| {
            let Some((name, width)) = find(role) else { return Ok(None) };
            check(&finder, name, width).map(|index| Some((width, index)))
        };
        let transform = one(Role::Transform, |f, name, width| match width {
            Width::Frames => f.find::<typed::Bytes<'_>, typed::Answer>(name, "process"),
            Width::Typed => f.find::<typed::Messages<'_>, typed::Outcomes>(name, "process"),
        })?;
        let filter = one(Role::Filter, |f, name, width| match width {
            Width::Frames => f.find::<typed::Bytes<'_>, typed::Answer>(name, "process"),
            Width::Typed => f.find::<typed::Messages<'_>, typed::Verdicts>(name, "process"),
        })?;
        let scan = one(Role::Scan, |f, name, width| match width {
            Width::Frames => f.find::<typed::TwoBytes<'_>, typed::ScanAnswer>(name, "scan"),
            Width::Typed => f.find::<typed::Grouped<'_>, typed::ScannedAnswer>(name, "scan"),
        })?;
        let migrate =
            one(Role::Migrate, |f, name, _| f.find::<typed::Versioned<'_>, typed::Answer>(name, "migrate"))?;
        let aggregate =
            find(Role::Aggregate).map(|(name, width)| finder.aggregate(name, width)).transpose()?;
        Ok(Self { pre, transform, filter, scan, migrate, aggregate })
    }
}

/// Finds exported functions and checks their types.
struct Finder<'a> {
    component: &'a Component,
    pre: &'a InstancePre<Ctx>,
}

impl Finder<'_> {
    fn find<P, R>(&self, interface: &str, function: &str) -> Result<ComponentExportIndex, String>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let instance = self.component.get_export_index(None, interface);
        let export = instance.as_ref().and_then(|i| self.component.get_export(Some(i), function));
        let Some((ComponentItem::ComponentFunc(ty), index)) = export else {
            return Err(format!("`{interface}` exports no function `{function}`"));
        };
        if ty.async_() {
            return Err(format!("`{interface}` exports `{function}` as an async function"));
        }
        ty.typecheck::<P, R>(&self.pre.instance_type())
            .map_err(|e| format!("`{function}` of `{interface}` has another type: {e:#}"))?;
        Ok(index)
    }

    fn aggregate(&self, name: &str, width: Width) -> Result<AggregateExports, String> {
        let describe = self.find::<(), (typed::Description,)>(name, "describe")?;
        let [fold, merge, finish] = match width {
            Width::Frames => [
                self.find::<typed::TwoBytes<'_>, typed::Answer>(name, "fold")?,
                self.find::<typed::Bytes<'_>, typed::Answer>(name, "merge")?,
                self.find::<typed::Bytes<'_>, typed::Answer>(name, "finish")?,
            ],
            Width::Typed => [
                self.find::<typed::Grouped<'_>, typed::FoldedAnswer>(name, "fold")?,
                self.find::<typed::Pairs<'_>, typed::Accumulators>(name, "merge")?,
                self.find::<typed::ByteLists<'_>, typed::Texts>(name, "finish")?,
            ],
        };
        Ok(AggregateExports { width, describe, fold, merge, finish })
    }
}
