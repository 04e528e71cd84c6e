// SPDX-License-Identifier: GPL-2.0

//! Sending a bio to another device, or to another place on its own.

use super::{
    BlkFilter,
    Context,
    FilteredBio,
    IncomingBio,
    OwnedBio,
    Verdict, //
};
use crate::{
    bindings,
    block::bdev::BlockDevice, //
};

/// Makes a bio that goes on right after this go to `device`.
///
/// # Safety
///
/// `device` must stay open until the filter of the bio is released.
#[inline]
unsafe fn retarget(bio: &FilteredBio, device: &BlockDevice, sector: u64) -> bool {
    // SAFETY: By the type invariants of `FilteredBio` both are valid, and nobody else has the bio.
    // The device stays long enough by the safety requirements.
    unsafe {
        bindings::bdev_filter_retarget(bio.filter.as_ptr(), bio.as_raw(), device.as_raw(), sector)
    }
}

impl<'cb, T: BlkFilter> IncomingBio<'cb, T> {
    /// Sends the bio to `sector` of `device`, in units of 512 bytes, instead of where it was going.
    ///
    /// It goes through the checks and the filters of that device, as if it had been submitted
    /// there. If that is the device of the filter itself, it goes below it. A bio that was sent to
    /// another device more than 8 times fails.
    ///
    /// The device is one that the state of the filter has open, as a
    /// [`BdevFile`](crate::block::bdev::BdevFile) that is there for as long as the state is: not in
    /// a lock.
    ///
    /// Gives the bio back if there is no memory, which this does not wait for, or if the bio is
    /// [protected](FilteredBio::is_protected).
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::block::{
    ///     bdev::BdevFile,
    ///     bio::BlkStatus,
    ///     filter::{
    ///         BlkFilter,
    ///         IncomingBio,
    ///         Verdict, //
    ///     }, //
    /// };
    ///
    /// /// Sends what is for this disk to another one.
    /// fn divert<'cb, T: BlkFilter>(bio: IncomingBio<'cb, T>, to: &'cb BdevFile) -> Verdict<'cb> {
    ///     let sector = bio.sector();
    ///     bio.retarget(to, sector)
    ///         .unwrap_or_else(|bio| bio.end(BlkStatus::from(ENOMEM)))
    /// }
    /// ```
    #[inline]
    pub fn retarget(self, device: &'cb BlockDevice, sector: u64) -> Result<Verdict<'cb>, Self> {
        // SAFETY: `'cb` is that of the state, which nobody else can make a reference of. It may be
        // as long as the filter is not released, so what is borrowed for it stays until then.
        if !unsafe { retarget(&self, device, sector) } {
            return Err(self);
        }
        Ok(Verdict::new(
            bindings::bdev_filter_verdict::BDEV_FILTER_RETARGET,
        ))
    }
}

impl<T: BlkFilter> OwnedBio<T> {
    /// Sends the bio to `sector` of `device`, as [`IncomingBio::retarget`] does.
    ///
    /// Gives the bio back if it is of another device than `cx`. Else it does not fail in
    /// [`BlkFilter::process`]: it waits for memory there, unless a spinlock is held.
    #[inline]
    pub fn retarget<'a>(
        self,
        cx: &Context<'a, T>,
        device: &'a BlockDevice,
        sector: u64,
    ) -> Result<(), Self> {
        if cx.filter != self.filter.as_ptr() {
            return Err(self);
        }
        // SAFETY: As in `IncomingBio::retarget`: `'a` is that of the state, and it is the state of
        // the filter that has the bio.
        if !unsafe { retarget(&self, device, sector) } {
            return Err(self);
        }
        self.resubmit();
        Ok(())
    }
}
