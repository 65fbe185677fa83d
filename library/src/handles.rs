//! The objects that the C interface hands out, as numbers: a number that was freed, or never given,
//! is found out, which a pointer would not be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::{Invitation, Knock, Profile};

/// The most objects at one time: who has more forgets to free them.
pub(crate) const MOST: usize = 1024;

/// An object that a number stands for.
pub(crate) enum Object {
    Profile(Box<Profile>),
    Invitation(Arc<Invitation>),
    Knock(Box<Knock>),
}

/// Why a number gives no object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandleError {
    /// It was freed, or never given.
    Unknown,
    /// A call on another thread, or the one whose callback this is, uses it.
    Busy,
    /// There are as many as allowed.
    Full,
}

struct Table {
    objects: BTreeMap<u64, Arc<Mutex<Object>>>,
    last: u64,
}

static TABLE: Mutex<Table> = Mutex::new(Table { objects: BTreeMap::new(), last: 0 });

/// No call panics while it holds the table.
fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps an object. No number is given twice.
pub(crate) fn keep(object: Object) -> Result<u64, HandleError> {
    let mut table = table();
    if table.objects.len() >= MOST {
        return Err(HandleError::Full);
    }
    table.last += 1;
    let number = table.last;
    table.objects.insert(number, Arc::new(Mutex::new(object)));
    Ok(number)
}

/// Lets `work` use the object. Calls with other numbers go on meanwhile.
pub(crate) fn with<T>(number: u64, work: impl FnOnce(&mut Object) -> T) -> Result<T, HandleError> {
    let object = table().objects.get(&number).cloned().ok_or(HandleError::Unknown)?;
    let mut object = match object.try_lock() {
        Ok(object) => object,
        Err(TryLockError::WouldBlock) => return Err(HandleError::Busy),
        // A call panicked in the middle of it: nothing of it can be relied on.
        Err(TryLockError::Poisoned(_)) => return Err(HandleError::Unknown),
    };
    Ok(work(&mut object))
}

/// Forgets the object, which wipes its secrets: at once, or at the end of the call that uses it.
pub(crate) fn free(number: u64) -> Result<(), HandleError> {
    let object = table().objects.remove(&number);
    object.map(drop).ok_or(HandleError::Unknown)
}
