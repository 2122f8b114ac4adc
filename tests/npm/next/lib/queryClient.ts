// Of the application itself, as templates for React have it.
export const apiRequest = (url: string, options?: RequestInit) => fetch(url, options);
