pub use allocated::collections::*;

/// Sorted, as there is no source of randomness here. No code depends on the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashSet<T>(BTreeSet<T>);

impl<T> HashSet<T> {
    pub fn new() -> Self {
        Self(BTreeSet::new())
    }

    pub fn with_capacity(_: usize) -> Self {
        Self::new()
    }
}

impl<T> Default for HashSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Ord> FromIterator<T> for HashSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<T> core::ops::Deref for HashSet<T> {
    type Target = BTreeSet<T>;

    fn deref(&self) -> &BTreeSet<T> {
        &self.0
    }
}

impl<T> core::ops::DerefMut for HashSet<T> {
    fn deref_mut(&mut self) -> &mut BTreeSet<T> {
        &mut self.0
    }
}
