//! The `unsafe` code of the client on Windows: who may use a file, as SDDL text.
//! See `edge::files` for the decisions.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle};
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{
    ERROR_SUCCESS, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertSidToStringSidW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetTokenInformation, OWNER_SECURITY_INFORMATION,
    SECURITY_ATTRIBUTES, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_READ,
};

/// The handle that means this process's own token, in every process.
const OWN_TOKEN: HANDLE = -4isize as HANDLE;

/// The SID of the user of this process: `S-1-5-21-...-1001`.
pub fn user() -> io::Result<String> {
    // Words of eight bytes: a TOKEN_USER begins with a pointer.
    let mut buffer = [0_u64; 32];
    let mut used = 0;
    let mut text = null_mut();
    // SAFETY: the kernel writes at most the buffer's own size into it, a TOKEN_USER first, whose
    // SID is in the buffer too. The buffer lives through both calls.
    let done = unsafe {
        let size = size_of_val(&buffer) as u32;
        let begin = buffer.as_mut_ptr();
        GetTokenInformation(OWN_TOKEN, TokenUser, begin.cast(), size, &mut used) != 0
            && ConvertSidToStringSidW((*begin.cast::<TOKEN_USER>()).User.Sid, &mut text) != 0
    };
    if !done {
        return Err(io::Error::last_os_error());
    }
    Ok(Allocated(text.cast()).text())
}

/// The owner and the access list of an open file: `O:S-1-5-...D:P(A;;FA;;;SY)`.
pub fn access(file: &File) -> io::Result<String> {
    let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    let (handle, nothing) = (file.as_raw_handle(), null_mut());
    let mut descriptor = null_mut();
    // SAFETY: the handle is open; unwanted results have null pointers, as the call allows.
    let error = unsafe {
        let acl = null_mut();
        let place = &raw mut descriptor;
        GetSecurityInfo(handle, SE_FILE_OBJECT, wanted, nothing, null_mut(), acl, acl, place)
    };
    match error {
        ERROR_SUCCESS => Allocated(descriptor).sddl(),
        error => Err(io::Error::from_raw_os_error(error.cast_signed())),
    }
}

/// SDDL as [`access`] writes it: with the short names of SIDs that have one.
pub fn normal(sddl: &str) -> io::Result<String> {
    descriptor(sddl)?.sddl()
}

/// Makes a new file that has this access list from its first moment.
pub fn create(path: &Path, sddl: &str) -> io::Result<File> {
    let descriptor = descriptor(sddl)?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    let name: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    let (access, sharing) = (GENERIC_WRITE, FILE_SHARE_READ);
    let (new, normal) = (CREATE_NEW, FILE_ATTRIBUTE_NORMAL);
    // SAFETY: the name ends with a zero; name, attributes and descriptor live through the call.
    let handle = unsafe {
        CreateFileW(name.as_ptr(), access, sharing, &attributes, new, normal, null_mut())
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is open, and nobody else has it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

fn descriptor(sddl: &str) -> io::Result<Allocated> {
    let text: Vec<u16> = sddl.encode_utf16().chain([0]).collect();
    let mut made = null_mut();
    // SAFETY: the text ends with a zero and lives through the call; the size is not wanted.
    let done = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text.as_ptr(),
            SDDL_REVISION_1,
            &mut made,
            null_mut(),
        )
    };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(Allocated(made)) }
}

/// Memory that a call has allocated for us: a security descriptor, or text that ends with a zero.
struct Allocated(*mut c_void);

impl Allocated {
    /// The SDDL text of a security descriptor.
    fn sddl(&self) -> io::Result<String> {
        let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
        let mut text = null_mut();
        // SAFETY: this is a security descriptor: only `access` and `descriptor` make one, and only
        // they call this. The length is not wanted.
        let done = unsafe {
            ConvertSecurityDescriptorToStringSecurityDescriptorW(
                self.0,
                SDDL_REVISION_1,
                wanted,
                &mut text,
                null_mut(),
            )
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(Allocated(text.cast()).text()) }
    }

    fn text(&self) -> String {
        let begin: *const u16 = self.0.cast_const().cast();
        if begin == null() {
            return String::new();
        }
        // SAFETY: this is text that the system has made, and it ends with a zero.
        let units = unsafe {
            let length = (0..).take_while(|place| *begin.add(*place) != 0).count();
            std::slice::from_raw_parts(begin, length)
        };
        String::from_utf16_lossy(units)
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: the system allocated it with LocalAlloc, as each call above says, and nothing
        // else frees it.
        unsafe { LocalFree(self.0) };
    }
}
