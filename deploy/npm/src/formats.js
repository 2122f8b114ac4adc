// From the server's proxy/metadata/formats.py; `make npm` writes this.
export const FORMATS = [
  {"name": "jpeg", "extensions": [".jpg", ".jpeg"], "mimeTypes": ["image/jpeg"], "level": "comprehensive"},
  {"name": "png", "extensions": [".png"], "mimeTypes": ["image/png"], "level": "comprehensive"},
  {"name": "webp", "extensions": [".webp"], "mimeTypes": ["image/webp"], "level": "comprehensive"},
  {"name": "heic", "extensions": [".heic"], "mimeTypes": ["image/heic"], "level": "comprehensive"},
  {"name": "heif", "extensions": [".heif"], "mimeTypes": ["image/heif"], "level": "comprehensive"},
  {"name": "avif", "extensions": [".avif"], "mimeTypes": ["image/avif"], "level": "comprehensive"},
  {"name": "tiff", "extensions": [".tiff", ".tif"], "mimeTypes": ["image/tiff"], "level": "comprehensive"},
  {"name": "bmp", "extensions": [".bmp"], "mimeTypes": ["image/bmp", "image/x-ms-bmp"], "level": "basic"},
  {"name": "gif", "extensions": [".gif"], "mimeTypes": ["image/gif"], "level": "standard"},
  {"name": "ico", "extensions": [".ico"], "mimeTypes": ["image/x-icon", "image/vnd.microsoft.icon"], "level": "basic"},
  {"name": "svg", "extensions": [".svg"], "mimeTypes": ["image/svg+xml"], "level": "standard"},
  {"name": "cr2", "extensions": [".cr2"], "mimeTypes": ["image/x-canon-cr2"], "level": "comprehensive"},
  {"name": "cr3", "extensions": [".cr3"], "mimeTypes": ["image/x-canon-cr3"], "level": "standard"},
  {"name": "nef", "extensions": [".nef"], "mimeTypes": ["image/x-nikon-nef"], "level": "comprehensive"},
  {"name": "arw", "extensions": [".arw"], "mimeTypes": ["image/x-sony-arw"], "level": "comprehensive"},
  {"name": "dng", "extensions": [".dng"], "mimeTypes": ["image/x-adobe-dng"], "level": "comprehensive"},
  {"name": "orf", "extensions": [".orf"], "mimeTypes": ["image/x-olympus-orf"], "level": "standard"},
  {"name": "raf", "extensions": [".raf"], "mimeTypes": ["image/x-fuji-raf"], "level": "comprehensive"},
  {"name": "pef", "extensions": [".pef"], "mimeTypes": ["image/x-pentax-pef"], "level": "standard"},
  {"name": "x3f", "extensions": [".x3f"], "mimeTypes": ["image/x-sigma-x3f"], "level": "standard"},
  {"name": "srw", "extensions": [".srw"], "mimeTypes": ["image/x-samsung-srw"], "level": "standard"},
  {"name": "rw2", "extensions": [".rw2", ".rw"], "mimeTypes": ["image/x-panasonic-rw2"], "level": "comprehensive"},
  {"name": "jxl", "extensions": [".jxl"], "mimeTypes": ["image/jxl"], "level": "standard"},
  {"name": "psd", "extensions": [".psd"], "mimeTypes": ["image/vnd.adobe.photoshop", "image/x-photoshop"], "level": "standard"},
];
export const SUPPORTED_IMAGE_EXTENSIONS = [".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tiff", ".tif", ".bmp", ".gif", ".ico", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".pef", ".x3f", ".srw", ".rw2", ".rw", ".jxl", ".psd"];
export const SUPPORTED_IMAGE_MIMES = ["image/jpeg", "image/png", "image/webp", "image/heic", "image/heif", "image/avif", "image/tiff", "image/bmp", "image/x-ms-bmp", "image/gif", "image/x-icon", "image/vnd.microsoft.icon", "image/svg+xml", "image/x-canon-cr2", "image/x-canon-cr3", "image/x-nikon-nef", "image/x-sony-arw", "image/x-adobe-dng", "image/x-olympus-orf", "image/x-fuji-raf", "image/x-pentax-pef", "image/x-sigma-x3f", "image/x-samsung-srw", "image/x-panasonic-rw2", "image/jxl", "image/vnd.adobe.photoshop", "image/x-photoshop"];
export const UNSUPPORTED_FORMAT = "Enhanced format support includes 20+ formats: JPG, PNG, HEIC, WebP, TIFF, BMP, GIF, RAW formats (CR2, NEF, ARW, DNG), and more.";
