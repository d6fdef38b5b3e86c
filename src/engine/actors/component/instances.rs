//! Counts what one instance of a component consists of, before anything is compiled.
//!
//! A component can contain others and instantiate each of them many times, which do the same: a
//! file of a kilobyte can mean more instances than any machine has memory for, and the compiler
//! walks through every one of them. So they are multiplied out here, by looking alone.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, Instance, Parser, Payload,
};

/// The instances of which one instance of a component consists; no more than [`u32::MAX`] each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instances {
    /// Of core modules.
    pub cores: u32,
    /// Of the components inside.
    pub components: u32,
}

impl Instances {
    /// Instances of something that is not in the file cannot be counted.
    const COUNTLESS: Self = Self { cores: u32::MAX, components: u32::MAX };

    /// Counts those of a component. Stops where the file is no component; it is not compiled then.
    pub fn of(wasm: &[u8]) -> Self {
        let mut open: Vec<Scope> = Vec::new();
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            match payload {
                Payload::Version { encoding, .. } => {
                    open.push(Scope { encoding, ..Scope::default() });
                }
                Payload::End(_) => {
                    let Some(closed) = open.pop() else { break };
                    match open.last_mut() {
                        Some(outer) if closed.encoding == Encoding::Component => {
                            outer.components.push(closed.instances);
                        }
                        Some(_) => {}
                        None => return closed.instances,
                    }
                }
                payload => {
                    if let Some((scope, outer)) = open.split_last_mut() {
                        scope.section(outer, payload);
                    }
                }
            }
        }
        Self::COUNTLESS
    }

    fn add(&mut self, more: Self) {
        self.cores = self.cores.saturating_add(more.cores);
        self.components = self.components.saturating_add(more.components);
    }
}

/// A module or component whose end is not reached yet.
struct Scope {
    encoding: Encoding,
    /// The parts of an instance of each component, by the component's index.
    components: Vec<Instances>,
    instances: Instances,
}

impl Default for Scope {
    fn default() -> Self {
        Self { encoding: Encoding::Module, components: Vec::new(), instances: Instances::default() }
    }
}

impl Scope {
    /// Counts what a section instantiates, and the components that it names. `outer` are the scopes
    /// around this one, the innermost last.
    fn section(&mut self, outer: &[Self], payload: Payload<'_>) {
        match payload {
            Payload::InstanceSection(section) => {
                let found = section.into_iter().map_while(Result::ok);
                let found = found.filter(|item| matches!(item, Instance::Instantiate { .. }));
                let cores = u32::try_from(found.count()).unwrap_or(u32::MAX);
                self.instances.add(Instances { cores, components: 0 });
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.into_iter().map_while(Result::ok) {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance {
                        let inside = self.component(outer, 0, component_index);
                        self.instances.add(Instances { cores: 0, components: 1 });
                        self.instances.add(inside);
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                let aliases = section.into_iter().map_while(Result::ok);
                self.components_of(aliases.filter_map(aliased), outer);
            }
            Payload::ComponentImportSection(section) => {
                let imports = section.into_iter().map_while(Result::ok);
                let components =
                    imports.filter(|import| matches!(import.ty, ComponentTypeRef::Component(_)));
                self.components_of(components.map(|_| None), outer);
            }
            Payload::ComponentExportSection(section) => {
                let exports = section.into_iter().map_while(Result::ok);
                let components =
                    exports.filter(|export| export.kind == ComponentExternalKind::Component);
                // Each export gets one more index.
                self.components_of(components.map(|export| Some((0, export.index))), outer);
            }
            _ => {}
        }
    }

    /// Gives components their indices: those of other scopes, or ones that are not in the file.
    fn components_of(&mut self, named: impl Iterator<Item = Option<(u32, u32)>>, outer: &[Self]) {
        for place in named {
            let component = place.map(|(levels, index)| self.component(outer, levels, index));
            self.components.push(component.unwrap_or(Instances::COUNTLESS));
        }
    }

    /// Returns what an instance of a component consists of that the scope so many levels out has.
    fn component(&self, outer: &[Self], levels: u32, index: u32) -> Instances {
        let mut scopes = std::iter::once(self).chain(outer.iter().rev());
        let scope = scopes.nth(levels as usize);
        let found = scope.and_then(|scope| scope.components.get(index as usize));
        found.copied().unwrap_or(Instances::COUNTLESS)
    }
}

/// Returns the place of a component that an alias names, as levels outward and index there; `None`
/// of one that an instance hands out. Other aliases name no component.
fn aliased(alias: ComponentAlias<'_>) -> Option<Option<(u32, u32)>> {
    match alias {
        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
            Some(Some((count, index)))
        }
        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> (u32, u32) {
        let Instances { cores, components } =
            Instances::of(&wat::parse_str(text).expect("valid text"));
        (cores, components)
    }

    /// A component with so many levels, each of which has the one below twice.
    fn doubling(levels: u32) -> String {
        let level = |n: u32| {
            format!(
                "(component $c{n} (alias outer 1 $c{below} (component $c)) \
                 (instance (instantiate $c)) (instance (instantiate $c)))",
                below = n - 1
            )
        };
        let levels_text: String = (1..=levels).map(level).collect();
        format!(
            "(component (component $c0 (core module $m) (core instance (instantiate $m))) \
             {levels_text} (instance (instantiate $c{levels})))"
        )
    }

    #[test]
    fn instances_are_counted_as_often_as_they_are_made() {
        let nested = r#"(component
            (core module $m)
            (core instance (instantiate $m))
            (component $c (core module $n) (core instance (instantiate $n)))
            (core instance (instantiate $m))
            (instance (instantiate $c)) (instance (instantiate $c)))"#;
        assert_eq!(count(nested), (4, 2));
        assert_eq!(
            count("(component (component (core module $m) (core instance (instantiate $m))))"),
            (0, 0)
        );
        assert_eq!(count(&doubling(3)), (8, 15));
    }

    #[test]
    fn a_small_file_of_countless_instances_is_counted_without_making_them() {
        assert_eq!(count(&doubling(50)), (u32::MAX, u32::MAX));
    }

    #[test]
    fn components_that_are_handed_over_are_countless() {
        for text in [
            r#"(component (import "c" (component $c)) (instance (instantiate $c)))"#,
            r#"(component (component $a (component $b) (export "b" (component $b)))
                (instance $i (instantiate $a)) (alias export $i "b" (component $c))
                (instance (instantiate $c)))"#,
        ] {
            assert_eq!(count(text), (u32::MAX, u32::MAX));
        }
        let exported = r#"(component (component $a (core module $m) (core instance (instantiate $m)))
            (export $b "b" (component $a)) (instance (instantiate $b)))"#;
        assert_eq!(count(exported), (1, 1));
    }
}
