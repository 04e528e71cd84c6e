// SPDX-License-Identifier: GPL-2.0
//~ E0597: the device that a bio is sent to can't be taken away
fn submit_bio<'cb>(this: Pin<&'cb Good>, bio: Incoming<'cb>) -> Verdict<'cb> {
    let files = this.get_ref().files.lock();
    let to: &'cb BlockDevice = files.as_ref().unwrap(); //~ bad
    let to: &'cb BlockDevice = &this.get_ref().file; //~ good
    let Ok(verdict) = bio.retarget(to, 0) else {
        loop {}
    };
    verdict
}
