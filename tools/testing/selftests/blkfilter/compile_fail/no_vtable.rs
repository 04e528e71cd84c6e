// SPDX-License-Identifier: GPL-2.0
//~ E0046: which methods there are has to be known
struct Mine;

#[vtable] //~ good
impl BlkFilter for Mine { //~ bad
impl BlkFilter for Mine { //~ good
    const NAME: &'static CStr = c"mine";
    type OwnerModule = crate::LocalModule; //~ bad
    type RegistrationData = ();

    fn attach(_: AttachInfo<'_>, (): &()) -> impl PinInit<Self, Error> {
        Err::<Self, _>(ENXIO)
    }

    fn submit_bio<'cb>(this: Pin<&'cb Self>, bio: IncomingBio<'cb, Self>) -> Verdict<'cb> {
        bio.pass()
    }
}
