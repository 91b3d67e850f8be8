//! Floating-point functions that `core` lacks. Only the runtime calls them, so they are compiled here but not linked.

pub trait Float: Sized {
    fn log2(self) -> Self {
        unreachable!("the runtime's")
    }

    fn ceil(self) -> Self {
        unreachable!("the runtime's")
    }

    fn powf(self, _: Self) -> Self {
        unreachable!("the runtime's")
    }
}

impl Float for f64 {}
