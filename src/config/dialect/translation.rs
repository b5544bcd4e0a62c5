//! Second step of a dialect: the documents of all files together to native units.

use std::sync::Arc;

use imbl::OrdMap;

use crate::config::dialect::foreign::{ForeignObject, Places};
use crate::config::dialect::note::{AddedSetting, Note};
use crate::config::tree::{Entry, Node, Value};
use crate::config::{Path, Step};

/// Native document made of a few foreign objects that belong together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unit {
    /// Native document: a mapping of lists.
    pub root: Vec<(&'static str, Vec<Node>)>,
    /// Origins of its parts.
    pub places: Places,
    /// Notes.
    pub notes: Vec<Note>,
    /// Settings that no file says.
    pub added: Vec<AddedSetting>,
}

/// Units by name, which an unchanged unit shares with the translation before.
pub type Units = OrdMap<String, Arc<Unit>>;

impl Unit {
    /// Adds an entity to a list. `parts` are paths below it whose nodes come from another object than `object`.
    pub fn push(
        &mut self,
        list: &'static str,
        entity: Node,
        object: &Arc<ForeignObject>,
        parts: impl IntoIterator<Item = (Path, Arc<ForeignObject>)>,
    ) {
        let index = match self.root.iter_mut().find(|(name, _)| *name == list) {
            Some((_, entities)) => {
                entities.push(entity);
                entities.len() - 1
            }
            None => {
                self.root.push((list, vec![entity]));
                0
            }
        };
        let path = Path::default().key(list).index(index);
        self.places.add(path.clone(), object);
        for (part, object) in parts {
            let steps: Vec<Step> = path.0.iter().chain(&part.0).cloned().collect();
            self.places.add(Path(steps), &object);
        }
    }

    /// Returns the native document as a tree.
    pub fn node(&self) -> Node {
        let entry = |(list, entities): &(&'static str, Vec<Node>)| Entry {
            key: (*list).to_owned(),
            key_span: None,
            value: Node { span: None, value: Value::Sequence(entities.clone()) },
        };
        Node { span: None, value: Value::Mapping(self.root.iter().map(entry).collect()) }
    }
}
