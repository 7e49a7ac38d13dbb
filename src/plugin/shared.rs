//! What the plugins of one kind share on one core, whichever objects they stand in.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::rc::Rc;

use ahash::AHashMap;

/// One value of each type, made when it is first asked for. Asked for in `build`, not in phases.
#[derive(Default)]
pub struct Shared(RefCell<AHashMap<TypeId, Rc<dyn Any>>>);

impl Shared {
    /// This core's `T`.
    pub fn get<T: Any + Default>(&self) -> Rc<T> {
        let mut values = self.0.borrow_mut();
        let value = values.entry(TypeId::of::<T>()).or_insert_with(|| Rc::<T>::default());
        value.clone().downcast().unwrap_or_else(|_| unreachable!("found by its type"))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_of_each_type() {
        let shared = Shared::default();
        shared.get::<Cell<u8>>().set(7);
        assert_eq!((shared.get::<Cell<u8>>().get(), shared.get::<Cell<u16>>().get()), (7, 0));
    }
}
